"""Where the trainings of a study run: here, or wherever else a launcher puts their processes."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from meta_rl.core.resources import usable_cores
from meta_rl.rollouts.ray.presence import prepare_ray

Backend: TypeAlias = Literal["local", "ray"]

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: which signal a process gets when its parent dies."""


@dataclass(frozen=True)
class Needs:
    """What a training's process takes of a machine."""

    cores: int = 1
    gpus: int = 0


@runtime_checkable
class Process(Protocol):
    """A training's process, on whichever machine."""

    def poll(self) -> int | None:
        """Return how it ended; None if it has not, or has yet to find room."""
        ...

    def terminate(self) -> None:
        """Ask it to save a checkpoint and end."""
        ...

    def wait(self) -> int | None:
        """Wait for it to end."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether its machine is gone, so that the run may go on on another."""
        ...


@runtime_checkable
class Launcher(Protocol):
    """Starts trainings."""

    def room(self, needs: Needs) -> int:
        """Return how many trainings at a time it has room for."""
        ...

    def cores_each(self, count: int) -> int:
        """Return the cores of each of so many trainings that do not say how many they take."""
        ...

    def launch(self, words: Sequence[str], output: Path, needs: Needs) -> Process:
        """Start `meta-rl train WORDS`, whose output is added to a file."""
        ...


class Here:
    """Starts trainings on this machine."""

    def room(self, needs: Needs) -> int:
        """Return how many trainings share the cores; of those on a GPU one."""
        return 1 if needs.gpus else usable_cores() // needs.cores

    def cores_each(self, count: int) -> int:
        """Return the share of each of so many trainings."""
        return max(1, usable_cores() // count)

    def launch(self, words: Sequence[str], output: Path, needs: Needs) -> Process:
        """Start one at once: whoever asks counts how many there are."""
        return LocalProcess(words, output, Path.cwd(), {})


@contextmanager
def launcher_of(backend: Backend, address: str) -> Iterator[Launcher]:
    """Give what starts trainings: on this machine, or on a Ray cluster.

    Args:
        address: HOST:PORT of the cluster's head, or `auto`; nothing as in `RolloutsConfig`.

    Raises:
        UserError: Ray is not there, or does not answer.
    """
    if backend == "local":
        yield Here()
        return
    prepare_ray(address, "--backend")
    from meta_rl.studies.on_ray import on_ray

    with on_ray(address) as launcher:
        yield launcher


class LocalProcess:
    """A process of this machine, which ends when this one dies.

    Args:
        words: What follows `meta-rl train`.
        output: File that takes what it prints.
        folder: Working directory.
        environment: Variables that it has besides this process's.
    """

    def __init__(
        self, words: Sequence[str], output: Path, folder: Path, environment: Mapping[str, str]
    ) -> None:
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meta_rl", "train", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent, which passes it on once
                preexec_fn=_end_with_the_parent if sys.platform == "linux" else None,
            )

    def poll(self) -> int | None:
        """Return how it ended; None if it has not."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to save a checkpoint and end."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int | None:
        """Wait for it to end."""
        return self._process.wait()

    @property
    def is_lost(self) -> bool:
        """False: this machine is there."""
        return False


_LIBC = ctypes.CDLL(None)


def _end_with_the_parent() -> None:
    """Have the system send SIGTERM when the parent dies, so that `kill -9` leaves no orphans."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
