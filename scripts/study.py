"""Runs a matrix of trainings and seeds, one process a core, and gathers the results as they come.

    python scripts/study.py results/STUDY.yaml [--processes 2] [--runs runs/STUDY] [--show]

STUDY.yaml names what is trained, each by the words that follow `meta-rl train`, and the seeds:

    seeds: [0, 1, 2]
    trainings:
      plain: ml1_push_maml_ppo
      minibatches: ml1_push_maml_ppo --agent.minibatches 5

Every finished run is added to results/STUDY.json at once. What is in there is not run again, on
whichever machine it was made; a run that was stopped is resumed. All runs of a seed come before
those of the next, so that a study that is cut short has whole seeds. `--show` prints the table
alone.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from record_results import record
from rich.console import Console
from rich.table import Table

from meta_rl.core.errors import UserError
from meta_rl.core.resources import usable_cores
from meta_rl.experiment import strict_yaml
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.metrics import read_metrics


@dataclass(frozen=True)
class Args:
    """Run a matrix of trainings and seeds."""

    study: Annotated[Path, tyro.conf.Positional]
    """YAML file that names trainings and seeds."""
    processes: int = 0
    """Trainings at a time, at least 0; 0 means one for each core that the process may use."""
    runs: Path | None = None
    """Folder of the run folders. Without it, runs/STUDY."""
    show: bool = False
    """Print the table and run nothing."""


@dataclass
class Job:
    """One training with one seed."""

    training: str
    words: list[str]
    seed: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.training}-seed{self.seed}"

    @property
    def run(self) -> RunFolder:
        """Where it is, or will be."""
        return RunFolder(self.folder / self.name)

    def start(self) -> None:
        """Train, or go on where it was stopped; what it prints is in its log."""
        if (self.run.path / "config.yaml").exists():
            words = ["--resume", str(self.run.path)]
        else:
            words = [*self.words, "--seed", str(self.seed), "--name", self.name]
            words += ["--runs", str(self.folder)]
        words += ["--threads", "1", "--workers", "1"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.name}.out").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meta_rl", "train", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the study, which passes it on once
            )

    def progress(self) -> str:
        """How far it has come, for the table."""
        if not self.run.metrics.exists():
            return "-"
        rows = read_metrics(self.run.metrics).rows
        last = next((row for row in reversed(rows) if "success/before" in row), None)
        reached = f"{rows[-1]['env_steps'] / 1e6:.2f} M" if rows else "-"
        return reached + (f", {last['success/before']:.2f}" if last else "")


def read(path: Path, folder: Path) -> list[Job]:
    """Return the jobs of a study, seed by seed."""
    content = strict_yaml.read(path)
    if not isinstance(content, dict) or content.keys() != {"seeds", "trainings"}:
        raise UserError(f"{path} must hold `seeds` and `trainings`, and nothing else")
    return [
        Job(training, shlex.split(words), seed, folder)
        for seed in content["seeds"]
        for training, words in content["trainings"].items()
    ]


class Results:
    """What was measured so far, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def of(self, job: Job) -> dict[str, Any] | None:
        """Return the entry of a job, if it has one."""
        key = (job.training, job.seed)
        return next((run for run in self.runs if (run["config"], run["seed"]) == key), None)

    def add(self, job: Job) -> None:
        """Take a finished run's evaluation, and write it down at once."""
        entry = record(job.run.path, "test", "sampled")
        self.runs.append({"words": shlex.join(job.words), **entry})
        self.runs.sort(key=lambda run: (run["config"], run["seed"]))
        text = json.dumps(self.runs, indent=1) + "\n"
        fresh = self.path.with_suffix(".json.new")
        fresh.write_text(text)
        fresh.replace(self.path)


def table(jobs: list[Job], results: Results) -> Table:
    """One row a job: how far it is, and its first score at every stage when it is done."""
    shown = Table("run", "state", "env steps, success before adaptation", "held-out score")
    for job in jobs:
        entry, state = results.of(job), "waits"
        if entry is not None:
            state = "done"
        elif job.process is not None:
            code = job.process.poll()
            state = "runs" if code is None else f"FAILED ({code})"
        score = entry["scores"][0]["name"] if entry and "scores" in entry else "success"
        found = [f"{stage[score]['mean']:.2f}" for stage in entry["stages"]] if entry else []
        reached = f"{entry['env_steps'] / 1e6:.2f} M" if entry else job.progress()
        shown.add_row(job.name, state, reached, " ".join(found))
    return shown


def finished(running: list[Job]) -> Iterator[Job]:
    """Take those out that have ended."""
    for job in [*running]:
        if job.process is not None and job.process.poll() is not None:
            running.remove(job)
            yield job


def main(args: Args) -> int:
    """Run what is missing; return 1 if a training failed."""
    folder = args.runs or Path("runs") / args.study.stem
    jobs, results = read(args.study, folder), Results(args.study.with_suffix(".json"))
    console = Console()
    if args.show:
        console.print(table(jobs, results))
        return 0
    waiting = [job for job in jobs if results.of(job) is None]
    running: list[Job] = []
    failed = 0
    processes = args.processes or usable_cores()
    # An exception could come between a process's beginning and its being known.
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    while (waiting or running) and not stop.is_set():
        while waiting and len(running) < processes:
            running.append(waiting.pop(0))
            running[-1].start()
            console.print(f"{running[-1].name} starts")
        stop.wait(0.5)
        for job in finished(running):
            assert job.process is not None
            if job.process.returncode == 0:
                results.add(job)
            else:
                failed += 1
                console.print(f"{job.name} failed: see {folder / job.name}.out")
            console.print(table(jobs, results))
    if stop.is_set():
        console.print("stopping; the same command goes on")
        for job in running:
            assert job.process is not None
            job.process.send_signal(signal.SIGINT)
        for job in running:
            assert job.process is not None
            job.process.wait()
        return 130
    console.print(table(jobs, results))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Args, description=__doc__)))
    except UserError as error:
        sys.exit(f"error: {error}")
