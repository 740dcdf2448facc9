"""Runs a matrix of trainings and seeds, one process a core, and gathers the results as they come.

    python scripts/study.py results/STUDY.yaml [--processes 2] [--runs runs/STUDY] [--show]

STUDY.yaml names what is trained, each by the words that follow `meta-rl train`, and the seeds:

    seeds: [0, 1, 2]
    trainings:
      plain: ml1_push_maml_ppo
      minibatches: ml1_push_maml_ppo --agent.minibatches 5

Every finished run is added to results/STUDY.json at once, beside what others have added meanwhile.
What is in there is not run again, on whichever machine it was made; a run that was stopped is
resumed. Both are refused where the words of the training have become others. All runs of a seed
come before those of the next, so that a study that is cut short has whole seeds. `--show` prints
the table alone.
"""

import fcntl
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from _entry import read_figures, run_script, write_figures
from record_results import record
from rich.console import Console
from rich.table import Column, Table

from meta_rl.commands._flags import experiment_of, take
from meta_rl.core.errors import UserError
from meta_rl.core.resources import usable_cores
from meta_rl.evaluation.protocol import fingerprint
from meta_rl.experiment import strict_yaml
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.lock import UNSUPPORTED
from meta_rl.runs.metrics import read_metrics
from meta_rl.studies.launching import Here
from meta_rl.studies.processes import InTurn, Places, Training, carry_out, say


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

    name: str
    """Name of the training in the study."""
    words: list[str]
    seed: int
    folder: Path
    """Folder of the run folders."""
    training: Training | None = None
    """What runs it, if it is to be run."""

    @property
    def run(self) -> RunFolder:
        """Where its run is, or will be."""
        return RunFolder(self.folder / f"{self.name}-seed{self.seed}")

    def prepare(self, places: Places) -> Training:
        """Return what runs it.

        Raises:
            UserError: The words are wrong, or its folder holds a run of others.
        """
        config, *flags = self.words
        prog = f"the training {self.name} of the study"
        experiment = experiment_of(config, [*flags, "--seed", str(self.seed)], prog)
        own = {"name": self.run.path.name, "runs": str(self.folder), "threads": 1, "workers": 1}
        words, _ = take(self.words, "--meta-iterations")  # which the training gives itself
        self.training = places.training_of(replace(experiment, **own), words)
        return self.training

    def progress(self) -> str:
        """How far it has come, for the table."""
        rows = read_metrics(self.run.metrics).rows
        last = next((row for row in reversed(rows) if "success/before" in row), None)
        reached = f"{rows[-1]['env_steps'] / 1e6:.2f} M" if rows else "-"
        return reached + (f", {last['success/before']:.2f}" if last else "")


def read(path: Path, folder: Path) -> list[Job]:
    """Return the jobs of a study, seed by seed."""
    content = strict_yaml.read(path)
    if not isinstance(content, dict) or content.keys() != {"seeds", "trainings"}:
        raise UserError(f"{path} must hold `seeds` and `trainings`, and nothing else")
    seeds, trainings = content["seeds"], content["trainings"]
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"`seeds` of {path} must be a list of whole numbers, got {seeds!r}")
    if not isinstance(trainings, dict) or not all(
        isinstance(text, str) and text.strip() for item in trainings.items() for text in item
    ):
        raise UserError(
            f"`trainings` of {path} must be lines of `name: CONFIG [--field value ...]`"
        )
    for name in trainings:
        if "/" in name or name.startswith("."):
            raise UserError(
                f"the name {name} of a training of {path} must be that of a folder: without a "
                f"slash, and not beginning with a dot"
            )
    return [
        _job(name, _split(words, name, path), seed, folder)
        for seed in seeds
        for name, words in trainings.items()
    ]


def _split(words: str, name: str, path: Path) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UserError(f"{path}: the words of {name} cannot be read: {error}") from error


def _job(name: str, words: list[str], seed: int, folder: Path) -> Job:
    for flag in ("--threads", "--workers", "--seed", "--name", "--runs"):
        if take(words, flag)[1] is not None:
            raise UserError(f"{flag} is the study's to choose; take it out of the training {name}")
    return Job(name, words, seed, folder)


class Results:
    """What was measured so far, in one JSON file beside the study."""

    def __init__(self, study: Path) -> None:
        self.study, self.path = study, study.with_suffix(".json")
        self.runs: list[dict[str, Any]] = []
        self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        found = read_figures(self.path)
        if not isinstance(found, list) or not all("words" in run for run in found):
            raise UserError(
                f"{self.path} holds no results of a study, each with its words; move it, or rename "
                f"the study"
            )
        self.runs = found

    def of(self, job: Job) -> dict[str, Any] | None:
        """Return the entry of a job, if it has one.

        Raises:
            UserError: It has one of other words.
        """
        for run in self.runs:
            if (run["config"], run["seed"]) == (job.name, job.seed):
                if run["words"] != shlex.join(job.words):
                    raise UserError(
                        f"{self.path} has {job.run.path.name} as it came of other words: "
                        f"{run['words']}; give the training another name, or remove the entry"
                    )
                return run
        return None

    def add(self, job: Job) -> None:
        """Take a finished run's evaluation, and write it down at once."""
        own = fingerprint(job.run.protocol())  # whatever else was measured by hand
        entry = record(job.run.path, "test", job.run.experiment().evaluation.actions, own)
        with self._one_at_a_time():
            self._read()  # others may have added theirs, or this one
            if self.of(job) is None:
                self.runs.append({"words": shlex.join(job.words), **entry})
            self.runs.sort(key=lambda run: (run["config"], run["seed"]))
            write_figures(self.runs, self.path)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Keep others from writing results meanwhile, where the file system can do that."""
        with self.study.open("r+b") as study:  # network file systems lock what is open for writing
            try:
                fcntl.flock(study, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            yield


def table(jobs: list[Job], results: Results) -> Table:
    """One row a job: how far it is, and its first score at every stage when it is done."""
    shown = Table(Column("run", no_wrap=True), "state", "env steps, success before", "held out")
    for job in jobs:
        entry, state = results.of(job), "waits"
        if entry is not None:
            state = "done"
        elif job.training is not None and job.training.failed:
            state = f"FAILED ({job.training.exit_code})"
        elif job.training is not None and job.training.is_running:
            state = "runs"
        score = entry["scores"][0]["name"] if entry and "scores" in entry else "success"
        found = [f"{stage[score]['mean']:.2f}" for stage in entry["stages"]] if entry else []
        reached = f"{entry['env_steps'] / 1e6:.2f} M" if entry else job.progress()
        shown.add_row(job.run.path.name, state, reached, " ".join(found))
    return shown


class Study(InTurn):
    """Jobs in their order, whose results are taken as they end."""

    def __init__(self, jobs: list[Job], results: Results, places: Places) -> None:
        self.jobs, self.results = jobs, results
        self.unrecorded = False
        # All are made before any starts, so that mistakes are told at once.
        super().__init__([job.prepare(places) for job in jobs if results.of(job) is None])

    def ended(self, training: Training) -> None:
        """Record the results, or tell of the failure; show all."""
        super().ended(training)
        if training.exit_code == 0:
            try:
                self.results.add(next(job for job in self.jobs if job.training is training))
            except (UserError, OSError) as error:
                say(f"{training.name} is not recorded: {error}")
                self.unrecorded = True
        Console().print(table(self.jobs, self.results))


def main(args: Args) -> int:
    """Run what is missing; return 1 if a training failed, or cannot be recorded."""
    if args.processes < 0:
        raise UserError(f"--processes must be at least 0, got {args.processes}")
    folder = args.runs or Path("runs") / args.study.stem
    jobs, results = read(args.study, folder), Results(args.study)
    if args.show:
        Console().print(table(jobs, results))
        return 0
    places = Places(Here(), args.processes or usable_cores())
    study = Study(jobs, results, places)
    if not study.waiting:
        Console().print(table(jobs, results))
    carry_out(study, places)
    return 1 if study.failed or study.unrecorded else 0


if __name__ == "__main__":
    run_script(main, Args, __doc__)
