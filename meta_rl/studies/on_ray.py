"""Trainings on the machines of a Ray cluster, which share their files."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from meta_rl.core.errors import UserError
from meta_rl.core.resources import usable_cores
from meta_rl.rollouts.ray.cluster import Cluster, join
from meta_rl.rollouts.ray.worker import software
from meta_rl.studies.launching import LocalProcess, Needs, Process

STORE_BYTES = 100_000_000
"""Size of the object store of a Ray that is started here; nothing is put into it."""
POLL_S = 0.2
ANSWER_S = 1.0
"""How long a machine may take to tell how a training is, before others are asked."""
LAST_WORD_S = 300.0
"""How long a training that was asked to end may take to save its checkpoint."""


class Host:
    """What runs in a Ray actor: the process of one training."""

    def start(
        self,
        words: Sequence[str],
        output: Path,
        folder: Path,
        environment: Mapping[str, str],
        wanted: str,
    ) -> str | None:
        """Start the training; return what is wrong if it cannot."""
        if (found := software()) != wanted:
            return f"{_here()} has {found}, but the study has {wanted}"
        try:
            self._process = LocalProcess(words, output, folder, environment)
        except OSError as error:
            return (
                f"{_here()} cannot begin there ({error}): all machines must share the folder "
                f"{folder}"
            )
        return None

    def poll(self) -> int | None:
        """Return how it ended; None if it has not."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to save a checkpoint and end."""
        self._process.terminate()


class RemoteProcess:
    """A training's process on some machine; it waits until one has room.

    Args:
        actor: A `Host`.
        started: The answer to its `start`.
        output: File that takes what cannot be told otherwise.
    """

    def __init__(self, actor: Any, started: Any, output: Path) -> None:
        self._actor, self._started, self._output = actor, started, output
        self._runs = False
        self._asked: Any = None
        self._code: int | None = None
        self._lost = False

    @property
    def is_lost(self) -> bool:
        """Whether its machine is gone, or the actor that it belonged to."""
        return self._lost

    def poll(self) -> int | None:
        """Return how it ended; None if it has not, or has yet to find room."""
        if self._code is None:
            try:
                self._look()
            except RayTaskError as error:  # in `Host` itself, which another try would not mend
                self._tell(str(error))
                self._end(1)
            except RayError:
                self._lost = True
                self._end(-9)
        return self._code

    def terminate(self) -> None:
        """Ask it to save a checkpoint and end; one that has not begun does not begin."""
        if self.poll() is None:
            if self._runs:
                self._actor.terminate.remote()
            else:
                self._end(-15)

    def wait(self) -> int | None:
        """Wait for it to end, but not for ever: its machine may be out of reach."""
        due = time.monotonic() + LAST_WORD_S
        while self.poll() is None:
            if time.monotonic() > due:
                self._end(-9)
            time.sleep(POLL_S)
        return self._code

    def _look(self) -> None:
        """Ask its machine how it is."""
        if not self._runs:
            ready, _ = ray.wait([self._started], timeout=0)
            if not ready:
                return
            if (problem := ray.get(self._started)) is not None:
                self._tell(problem)
                self._end(1)
                return
            self._runs = True
        asked = self._asked or self._actor.poll.remote()
        ready, _ = ray.wait([asked], timeout=ANSWER_S)
        self._asked = None if ready else asked  # a machine out of reach holds up no other
        if ready and (code := ray.get(asked)) is not None:
            self._end(code)

    def _tell(self, problem: str) -> None:
        """Write where the training's own output goes."""
        with self._output.open("a") as file:
            file.write(f"error: {problem}\n")

    def _end(self, code: int) -> None:
        """Remember how it ended, and give back what it took of its machine."""
        self._code = code
        ray.kill(self._actor)


class OnRay:
    """Starts trainings on a Ray cluster, each where there is room for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._host = ray.remote(Host)

    def room(self, needs: Needs) -> int:
        """Return how many trainings fit into the cluster.

        Raises:
            UserError: Not one does.
        """
        cores, gpus = (int(self._cluster.has(what)) for what in ("CPU", "GPU"))
        found = min(cores // needs.cores, gpus // needs.gpus if needs.gpus else cores)
        if found < 1:
            raise UserError(
                f"a training takes {needs.cores} CPUs and {needs.gpus} GPUs, but the cluster has "
                f"{cores} and {gpus}; lower --threads and --workers, or choose another --device"
            )
        return found

    def cores_each(self, count: int) -> int:
        """Return 1: others may need the rest of the cluster."""
        return 1

    def launch(self, words: Sequence[str], output: Path, needs: Needs) -> Process:
        """Start one as soon as a machine has room."""
        actor = self._host.options(num_cpus=needs.cores, num_gpus=needs.gpus).remote()
        where, folder = output.resolve(), Path.cwd()
        started = actor.start.remote(words, where, folder, _told_variables(), software())
        return RemoteProcess(actor, started, output)


@contextmanager
def on_ray(address: str) -> Iterator[OnRay]:
    """Join a Ray cluster, or start one on this machine; leave it at the end.

    `presence.prepare_ray` must come first.
    """
    cluster = join(address, usable_cores(), STORE_BYTES)
    try:
        yield OnRay(cluster)
    finally:
        cluster.leave()


def _told_variables() -> dict[str, str]:
    """Return what trainings elsewhere must know of this process's environment: no secrets."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONPATH" or (name.startswith("WANDB_") and "KEY" not in name)
    }


def _here() -> str:
    return os.uname().nodename
