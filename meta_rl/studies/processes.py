"""Trainings side by side, each a process with a run folder of its own."""

import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from meta_rl.core.errors import Interrupted, UserError
from meta_rl.evaluation.folder import Evaluations
from meta_rl.experiment import catalog
from meta_rl.experiment.config import Experiment
from meta_rl.experiment.identity import changed_flags, check_same_run
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.lock import is_held
from meta_rl.runs.metrics import read_metrics
from meta_rl.studies.launching import Here, Launcher, Needs, Process
from meta_rl.training.interruption import SIGNALS

POLL_S = 0.2
"""Seconds between two looks at the trainings."""
REPORT_S = 60.0
"""Seconds between two lines on how far they are."""
TRIES = 3
"""How often a run is started whose machines are lost."""


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
    needs: Needs = field(default_factory=Needs)
    """What its process takes of a machine."""
    was_stopped: bool = False
    """Whether `stop` was asked for."""
    _process: Process | None = field(default=None, repr=False)
    _starts: int = 0

    @property
    def run(self) -> RunFolder:
        """Where the run is, or will be."""
        return RunFolder(self.folder / self.name)

    @cached_property
    def evaluations(self) -> Evaluations:
        """What was measured of it; the same object each time, which reads each file once."""
        return Evaluations(self.run.evaluations)

    @property
    def output(self) -> Path:
        """File of all that its processes print."""
        return self.folder / f"{self.name}.out"

    @property
    def exit_code(self) -> int | None:
        """How its process ended; None if it has not, or was not started."""
        code = None if self._process is None else self._process.poll()
        return None if self._is_lost else code

    @property
    def is_running(self) -> bool:
        """Whether its process trains, or waits for room."""
        return self._process is not None and self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether its process ended with an error."""
        return bool(self.exit_code) and not self.was_stopped

    @property
    def _is_lost(self) -> bool:
        """Whether its machine is gone, and it is to be continued on another."""
        lost = self._process is not None and self._process.is_lost
        return lost and self._starts < TRIES and not self.was_stopped

    def start(self, launcher: Launcher) -> None:
        """Begin the run, or continue it from its checkpoint.

        Does nothing while another process trains there, such as one whose parent was killed; call
        it again until there is a process, and later, for it may be lost with its machine.
        """
        if (self._process is not None and not self._is_lost) or is_held(self.run.path):
            return
        if self.run.is_begun:
            words = ["--resume", str(self.run.path), *self.go_on]
        else:
            # A folder without a checkpoint was killed before its first one.
            words = [*self.begin, *(["--overwrite"] if self.run.path.exists() else [])]
        for plugin in sorted(catalog.plugins()):
            words += ["--plugin", plugin]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._starts:
            say(f"{self.name} lost its machine; it goes on where there is room")
        self._process = launcher.launch(words, self.output, self.needs)
        self._starts += 1

    def stop(self) -> None:
        """Ask the process to save a checkpoint and end."""
        if self._process is not None and not self.was_stopped:
            self._process.terminate()
        self.was_stopped = True

    def wait(self) -> None:
        """Wait for the process to end."""
        if self._process is not None:
            self._process.wait()

    def progress(self) -> str:
        """Return how far the run is."""
        rows = read_metrics(self.run.metrics).rows
        return f"{self.name} at {rows[-1]['meta_iterations'] if rows else 0}"


def is_finished(run: RunFolder, meta_iterations: int) -> bool:
    """Return whether a run was trained for so long, and evaluated as it says itself."""
    evaluations = Evaluations(run.evaluations)
    made = [each.meta_iterations for each in evaluations.readable()]
    if not run.is_begun or meta_iterations not in made:
        return False  # which is told quickly
    seed = run.experiment().evaluation.seed
    if evaluations.own(meta_iterations, run.protocol(), seed) is None:
        return False
    with suppress(UserError):  # a kill may have come between the evaluation and its checkpoint
        latest = checkpoint.load(run.checkpoint("latest"))
        return int(latest["meta_iterations"]) >= meta_iterations
    return False


@dataclass(frozen=True)
class Places:
    """Where trainings run, and how many at a time."""

    launcher: Launcher
    at_a_time: int

    @classmethod
    def of(
        cls, launcher: Launcher, processes: int, experiment: Experiment[Any, Any], runs: int
    ) -> "Places":
        """Return where to train so many runs of an experiment.

        Args:
            processes: What the user wants; 0 means as many as there is room for.

        Raises:
            UserError: There is no room for one, or its rollouts would be on Ray too.
        """
        room = launcher.room(_needs(experiment, 1))
        if experiment.rollouts.backend == "ray":
            if not isinstance(launcher, Here):
                raise UserError(
                    "--backend ray and --rollouts.backend ray do not go together: a cluster shares "
                    "out either trainings or rollouts"
                )
            if processes > 1:
                raise UserError(
                    f"each of --processes {processes} would hire Ray's whole cluster for its "
                    f"rollouts; leave it out, or let Ray share out the trainings: --backend ray"
                )
            room = 1
        return cls(launcher, max(1, min(processes or room, runs)))

    @property
    def cores_each(self) -> int:
        """Cores of each training that does not say itself how many it takes."""
        return self.launcher.cores_each(self.at_a_time)

    def training_of(self, experiment: Experiment[Any, Any], config: Sequence[str]) -> Training:
        """Return the training of an experiment.

        Args:
            config: Words after `meta-rl train` for the config and its flags, beside seed and name.

        Raises:
            UserError: The run folder holds a run of another experiment.
        """
        threads, workers = experiment.threads or 1, experiment.workers or self.cores_each
        shared = ["--meta-iterations", str(experiment.meta_iterations)]
        shared += ["--threads", str(threads)]
        if experiment.workers or experiment.rollouts.backend != "ray":  # which counts by machine
            shared += ["--workers", str(workers)]
        own = ["--seed", str(experiment.seed), "--name", experiment.name]
        begin = [*config, *own, "--runs", experiment.runs, *shared]
        needs = _needs(experiment, self.cores_each)
        run = RunFolder(Path(experiment.runs) / experiment.name)
        go_on = list(shared)
        if (run.path / "config.yaml").is_file():
            stored = run.experiment()
            check_same_run(stored, experiment, run.path)
            go_on += changed_flags(stored, experiment)
            rows = read_metrics(run.metrics, ("meta_iterations",)).rows
            made = rows[-1]["meta_iterations"] if rows else 0
            if not run.is_begun and made > min(stored.checkpoint_every, stored.meta_iterations - 1):
                raise UserError(
                    f"{run.path} has made {made} meta-iterations, but its latest checkpoint, from "
                    f"which it would go on, is gone; remove the folder, or choose another --name"
                )
        return Training(experiment.name, Path(experiment.runs), begin, go_on, needs)


def _needs(experiment: Experiment[Any, Any], cores: int) -> Needs:
    """Return what a training takes, whose workers have so many cores unless it says how many."""
    workers = experiment.workers or cores
    return Needs(max(1, experiment.threads, workers), int(experiment.device.startswith("cuda")))


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


def carry_out(plan: Plan, places: Places) -> None:
    """Train what a plan says, until it has no more.

    Raises:
        Interrupted: A signal came. All trainings have saved a checkpoint and ended.
    """
    running: list[Training] = []
    reported_s = time.monotonic()
    with _first_signal() as heard:
        while not heard:
            while len(running) < places.at_a_time and (training := plan.next()) is not None:
                say(f"{training.name} starts")
                running.append(training)
            if not running:
                return
            for training in running:
                training.start(places.launcher)
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
