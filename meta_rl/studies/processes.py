"""Trainings side by side on this machine, each a process with a run folder of its own."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from meta_rl.core.errors import Interrupted
from meta_rl.core.resources import usable_cores
from meta_rl.evaluation.result import read_summary
from meta_rl.experiment import catalog
from meta_rl.experiment.config import Experiment
from meta_rl.experiment.identity import check_same_run
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.lock import is_held
from meta_rl.runs.metrics import read_metrics
from meta_rl.training.interruption import SIGNALS

POLL_S = 0.2
"""Seconds between two looks at the trainings."""
REPORT_S = 60.0
"""Seconds between two lines on how far they are."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: which signal a process gets when its parent dies."""


@dataclass
class Training:
    """A run that `meta-rl train` begins, or continues, in a process of its own."""

    name: str
    """Name of the run and of its folder."""
    folder: Path
    """Folder of the run folders."""
    begin: Sequence[str]
    """Words after `meta-rl train` that begin the run."""
    go_on: Sequence[str] = ()
    """Words after `meta-rl train --resume RUN` that continue it."""
    was_stopped: bool = False
    """Whether `stop` was asked for."""
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def run(self) -> RunFolder:
        """Where the run is, or will be."""
        return RunFolder(self.folder / self.name)

    @property
    def output(self) -> Path:
        """File of all that its processes print."""
        return self.folder / f"{self.name}.out"

    @property
    def exit_code(self) -> int | None:
        """How its process ended; None if it has not, or was not started."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        """Whether its process trains."""
        return self._process is not None and self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether its process ended with an error."""
        return bool(self.exit_code) and not self.was_stopped

    def start(self) -> None:
        """Begin the run, or continue it from its checkpoint.

        Does nothing while another process trains there, such as one whose parent was killed; call
        it again until there is a process.
        """
        if self._process is not None or is_held(self.run.path):
            return
        if (self.run.checkpoints / "latest.pt").is_file():
            words = ["--resume", str(self.run.path), *self.go_on]
        else:
            # A folder without a checkpoint was killed before its first one.
            words = [*self.begin, *(["--overwrite"] if self.run.path.exists() else [])]
        for plugin in sorted(catalog.plugins()):
            words += ["--plugin", plugin]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meta_rl", "train", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent, which passes it on once
                preexec_fn=_end_with_the_parent if sys.platform == "linux" else None,
            )

    def stop(self) -> None:
        """Ask the process to save a checkpoint and end."""
        if self._process is not None and not self.was_stopped:
            self._process.send_signal(signal.SIGTERM)
        self.was_stopped = True

    def wait(self) -> None:
        """Wait for the process to end."""
        if self._process is not None:
            self._process.wait()

    def progress(self) -> str:
        """Return how far the run is."""
        rows = read_metrics(self.run.metrics).rows
        return f"{self.name} at {rows[-1]['meta_iterations']}" if rows else f"{self.name} begins"


def is_finished(run: RunFolder, meta_iterations: int) -> bool:
    """Return whether a run was trained for so long, and evaluated on the test split."""
    return any(
        (found["meta_iterations"], found.get("checkpoint", "latest")) == (meta_iterations, "latest")
        for found in map(read_summary, run.evaluations.glob("*-test-*.json"))
    )


_LIBC = ctypes.CDLL(None)


def _end_with_the_parent() -> None:
    """Have the system send SIGTERM when the parent dies, so that `kill -9` leaves no orphans."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def training_of(
    experiment: Experiment[Any, Any], config: Sequence[str], processes: int
) -> Training:
    """Return the training of an experiment, beside others on this machine.

    Args:
        config: Words after `meta-rl train` for the config and its flags, beside seed and name.
        processes: Trainings at a time, which share the cores.

    Raises:
        UserError: The run folder holds a run of another experiment.
    """
    threads = experiment.threads or 1
    workers = experiment.workers or cores_each(processes)
    shared = ["--meta-iterations", str(experiment.meta_iterations)]
    shared += ["--threads", str(threads), "--workers", str(workers)]
    own = ["--seed", str(experiment.seed), "--name", experiment.name, "--runs", experiment.runs]
    training = Training(experiment.name, Path(experiment.runs), [*config, *own, *shared], shared)
    if (training.run.checkpoints / "latest.pt").is_file():
        check_same_run(training.run.experiment(), experiment, training.run.path)
    return training


def cores_each(processes: int) -> int:
    """Return how many cores each of so many trainings has, at least 1."""
    return max(1, usable_cores() // processes)


def at_a_time(processes: int, experiment: Experiment[Any, Any], runs: int) -> int:
    """Return how many of so many runs to train at a time.

    Args:
        processes: What the user wants; 0 means one for each core, or one if they use a GPU.
    """
    usual = usable_cores() if experiment.device == "cpu" else 1
    return max(1, min(processes or usual, runs))


@runtime_checkable
class Plan(Protocol):
    """Says what is trained next, and hears how trainings ended."""

    def next(self) -> Training | None:
        """Return a training to start; None if there is none now."""
        ...

    def ended(self, training: Training) -> None:
        """Hear that a training has ended, by itself or stopped."""
        ...

    def look(self) -> None:
        """Look at the trainings that run; may stop some."""
        ...


class InTurn:
    """A plan of trainings in a fixed order."""

    def __init__(self, trainings: Iterable[Training]) -> None:
        self.waiting = list(trainings)
        self.failed: list[Training] = []

    def next(self) -> Training | None:
        """Return the first that waits."""
        return self.waiting.pop(0) if self.waiting else None

    def ended(self, training: Training) -> None:
        """Tell whether it failed."""
        if training.failed:
            self.failed.append(training)
        say_how_it_ended(training)

    def look(self) -> None:
        """Let all go on."""


def say_how_it_ended(training: Training) -> None:
    """Print a line about a training that has ended."""
    if training.was_stopped:
        say(f"{training.name} is stopped")
    elif training.failed:
        say(f"{training.name} failed: see {training.output}")
    else:
        say(f"{training.name} is finished")


def say(message: str) -> None:
    """Print a line at once, also into a file."""
    print(message, flush=True)


def carry_out(plan: Plan, processes: int) -> None:
    """Train what a plan says, so many runs at a time, until it has no more.

    Raises:
        Interrupted: A signal came. All trainings have saved a checkpoint and ended.
    """
    running: list[Training] = []
    reported_s = time.monotonic()
    with _first_signal() as heard:
        while not heard:
            while len(running) < processes and (training := plan.next()) is not None:
                say(f"{training.name} starts")
                running.append(training)
            if not running:
                return
            for training in running:
                training.start()
            time.sleep(POLL_S)
            for training in [each for each in running if each.exit_code is not None]:
                running.remove(training)
                plan.ended(training)
            plan.look()
            if time.monotonic() - reported_s > REPORT_S:
                reported_s = time.monotonic()
                say("; ".join(training.progress() for training in running))
        for training in running:
            training.stop()
        for training in running:
            training.wait()
    raise Interrupted("stopped; the same command goes on")


@contextmanager
def _first_signal() -> Iterator[list[int]]:
    """Give a list that holds the first signal to stop, once it came. A second one ends at once.

    Signals that the process was started to ignore, as by nohup, stay ignored.
    """
    heard: list[int] = []
    before = {
        number: signal.getsignal(number)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        restore()

    for number in before:
        signal.signal(number, hear)
    try:
        yield heard
    finally:
        restore()
