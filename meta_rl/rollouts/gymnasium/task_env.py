"""Steps any `gymnasium.Env` in worker processes that share memory with the parent."""

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
from collections.abc import Iterator, Sequence
from multiprocessing import connection, reduction
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from meta_rl.core.errors import NonFiniteAction, UserError, WorkerDied
from meta_rl.core.seeding import world_seeds
from meta_rl.core.types import EnvSpec, Picture, Step, Tasks
from meta_rl.rollouts.gymnasium import worker as gymnasium_worker
from meta_rl.rollouts.gymnasium.processes import (
    Worker,
    fate,
    light_children,
    pickled,
    shut_down,
)
from meta_rl.rollouts.gymnasium.staging import Staging
from meta_rl.rollouts.gymnasium.worker import (
    DONE,
    DRAW,
    FAREWELL_S,
    IDLE,
    RESET_ENDED,
    STEP,
    Block,
    Change,
    Failure,
    GymnasiumFamily,
    Layout,
    Order,
    WorldTask,
)

__all__ = [
    "GymnasiumFamily",
    "GymnasiumTaskEnv",
    "NonFiniteAction",
    "WorkerDied",
    "WorldTask",
]

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""How often a silent worker is checked for being alive, should its pipe not tell."""


class GymnasiumTaskEnv:
    """A `TaskEnv` over Gymnasium environments in worker processes.

    World `w = m * N + n` is copy n of task m; each worker holds a contiguous share of the worlds.
    Environments outlive `start`: they are re-tasked, and made only where a name lacks some.
    Memory is thus bounded by the most worlds that were ever held together.

    A world that ended and is stepped nevertheless stays as it is, with zero reward and metrics.
    """

    changes_within_episodes = False
    most_worlds = 64
    """Worlds that an evaluation plays together: each is an object of tens of megabytes, say."""

    def __init__(
        self, family: GymnasiumFamily, spec: EnvSpec, device: torch.device, workers: int
    ) -> None:
        if workers < 1:
            raise UserError(f"workers must be at least 1, got {workers}")
        self._pickled_family = pickled(family)
        self._needs_main = type(family).__module__ == "__main__"
        self._metric_names = tuple(family.metric_names)
        self._spec = spec
        self._device = device
        self._max_workers = workers
        self._low, self._high = np.array(spec.action_bounds, dtype=np.float32)
        self._workers: list[Worker] = []
        # Python waits for all processes when it ends, before it would collect this.
        multiprocessing.util.Finalize(self, shut_down, (self._workers,), exitpriority=10)
        self._staging: Staging | None = None
        self._tasks: Tasks | None = None
        self._copies = 0
        self._ended: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._obs = torch.zeros(0)

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations."""
        worlds = len(tasks) * copies
        if worlds < 1:
            raise UserError(f"no worlds to start: {len(tasks)} tasks with {copies} copies each")
        self._tasks, self._copies = tasks, copies
        while len(self._workers) < min(self._max_workers, worlds):
            self._workers.append(self._spawn(len(self._workers)))
        layout = Layout(
            worlds=worlds,
            workers=len(self._workers),
            observation_size=self._spec.observation_size,
            action_size=self._spec.action_size,
            metrics=len(self._metric_names),
        )
        with self._closed_on_error():
            self._order_start(layout, tasks, copies, seed)
            self._await(self._workers, "starting")
        staging = self._staged()
        self._ended = np.zeros(worlds, dtype=bool)
        self._obs = self._shape(staging.to_device())[..., : layout.observation_size]
        return self._obs

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Step all worlds once, with the action clipped to its bounds."""
        staging = self._staged()
        layout, rows = staging.block.layout, staging.block.rows
        drawn = action.detach().reshape(layout.worlds, layout.action_size)
        staging.wait()
        staging.actions.copy_(drawn)
        actions = staging.block.actions
        if not np.isfinite(actions).all():
            raise NonFiniteAction(self._describe_non_finite(actions))
        np.clip(actions, self._low, self._high, out=actions)
        with self._closed_on_error():
            self._tell(self._workers, STEP)
            self._await(self._workers, "stepping")
        self._ended = (rows[:, layout.terminated] != 0) | (rows[:, layout.truncated] != 0)
        brought = self._shape(staging.to_device())
        self._obs = brought[..., : layout.observation_size]
        first_metric = layout.truncated + 1
        return Step(
            next_obs=self._obs,
            reward=brought[..., layout.reward],
            terminated=brought[..., layout.terminated] != 0,
            truncated=brought[..., layout.truncated] != 0,
            metrics={
                name: brought[..., column]
                for column, name in enumerate(self._metric_names, start=first_metric)
            },
        )

    def reset_ended(self) -> Float[Tensor, "M N O"]:
        """Begin a new episode where the last step ended one; return all current observations."""
        staging = self._staged()
        if not self._ended.any():
            return self._obs
        staging.wait()  # the copy of the step must be done before its rows change
        concerned = [
            worker
            for worker, share in self._shares()
            if self._ended[share.start : share.stop].any()
        ]
        with self._closed_on_error():
            self._tell(concerned, RESET_ENDED)
            self._await(concerned, "resetting")
        self._ended[:] = False
        observation_size = staging.block.layout.observation_size
        self._obs = self._shape(staging.to_device())[..., :observation_size]
        return self._obs

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Turn worlds between two episodes into other tasks; see `ChangingTaskEnv`."""
        self._staged()
        became = {
            world: WorldTask(task.name, task.index, task.params)
            for world, task in zip(worlds, tasks, strict=True)
        }
        concerned = []
        with self._closed_on_error():
            for worker, share in self._shares():
                if own := [world for world in worlds if world in share]:
                    order = Change(tuple(own), tuple(became[world] for world in own))
                    self._tell([worker], pickle.dumps(order))
                    concerned.append(worker)
            self._await(concerned, "changing tasks")
        self._ended[list(worlds)] = True

    def draw(self) -> Picture:
        """Return a picture of the first world, by its `render_mode` of `rgb_array`."""
        self._staged()
        first = next(worker for worker, share in self._shares() if share)
        with self._closed_on_error():
            self._tell([first], DRAW)
            self._await([first], "drawing")
            picture: Picture = pickle.loads(first.pipe.recv_bytes())
        return picture

    def close(self) -> None:
        """End the worker processes and release the shared memory."""
        workers = self._workers.copy()
        self._workers.clear()
        try:
            shut_down(workers)
        finally:  # also when Ctrl-C was pressed again
            self._release_staging()

    def _order_start(self, layout: Layout, tasks: Tasks, copies: int, seed: int) -> None:
        """Tell every worker its share of the worlds."""
        if self._staging is not None:
            self._staging.wait()
        descriptor = None
        if self._staging is None or self._staging.block.layout != layout:
            self._release_staging()
            descriptor = gymnasium_worker.allocate(layout)
            self._staging = Staging(Block(layout, descriptor), self._device)
        plain = [
            WorldTask(task.name, task.index, task.params) for task in tasks for _ in range(copies)
        ]
        seeds = world_seeds(seed, tasks, copies)
        try:
            for worker, share in self._shares():
                order = Order(
                    layout=layout,
                    first=share.start,
                    tasks=tuple(plain[share.start : share.stop]),
                    seeds=tuple(seeds[share.start : share.stop]),
                    new_block=descriptor is not None,
                )
                self._tell([worker], pickle.dumps(order))
                if descriptor is not None:
                    with contextlib.suppress(ConnectionError):  # `_await` says more
                        pid = worker.process.pid
                        assert pid is not None
                        reduction.send_handle(worker.pipe, descriptor, pid)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _shares(self) -> Iterator[tuple[Worker, range]]:
        """Yield each worker with its worlds: contiguous shares of nearly equal size."""
        worlds, workers = self._staged().block.layout.worlds, len(self._workers)
        cuts = [worlds * number // workers for number in range(workers + 1)]
        for worker, (first, last) in zip(self._workers, itertools.pairwise(cuts), strict=True):
            yield worker, range(first, last)

    def _spawn(self, number: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=gymnasium_worker.serve,
            args=(
                there,
                number,
                self._spec.horizon,
                self._spec.action_space,
                self._pickled_family,
            ),
            name=f"environment worker {number}",
            daemon=True,
        )
        with there, light_children(self._needs_main):
            process.start()
        return Worker(number, process, here)

    def _tell(self, workers: Sequence[Worker], message: bytes) -> None:
        for worker in workers:
            with contextlib.suppress(ConnectionError):  # `_await` finds the cause
                worker.pipe.send_bytes(message)

    def _await(self, workers: Sequence[Worker], doing: str) -> None:
        """Wait until workers are done; raise as soon as one of them has failed or died."""
        waiting = {worker.pipe: worker for worker in workers}
        while waiting:
            ready = connection.wait(list(waiting), timeout=POLL_S)
            for pipe in ready:
                assert isinstance(pipe, connection.Connection)
                self._hear(waiting.pop(pipe), doing)
            if not ready:
                for worker in waiting.values():
                    # a process that the environment started may keep the pipe of a dead worker open
                    if worker.process.exitcode is not None and not worker.pipe.poll():
                        self._report(worker, doing, None)

    def _hear(self, worker: Worker, doing: str) -> None:
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, ConnectionError):
            self._report(worker, doing, None)
        if message != DONE:
            self._report(worker, doing, pickle.loads(message))

    def _report(self, worker: Worker, doing: str, failure: Failure | None) -> NoReturn:
        """Raise what a worker's end means to the user."""
        worker.process.join(FAREWELL_S)
        if failure is not None and failure.user_error:
            raise UserError(failure.message)
        ended = fate(worker.process.exitcode)
        where = f"environment worker {worker.number} (pid {worker.process.pid})"
        what = f"{where} {ended} while {doing}{self._busy_with(worker)}"
        if failure is None:
            raise WorkerDied(f"{what}; if memory ran out, use fewer workers or fewer worlds")
        error = WorkerDied(f"{what}: {failure.message}; mend the environment")
        error.add_note(failure.details)
        raise error

    def _busy_with(self, worker: Worker) -> str:
        world = int(self._staged().block.current[worker.number])
        if world == IDLE or self._tasks is None:
            return ""
        task, copy = divmod(world, self._copies)
        return f" {self._label(task)}, copy {copy}"

    def _label(self, task: int) -> str:
        assert self._tasks is not None
        return f"{self._tasks.names[task]}:{int(self._tasks.index[task])}"

    def _describe_non_finite(self, actions: NDArray[np.float32]) -> str:
        worlds = np.flatnonzero(~np.isfinite(actions).all(axis=1))
        labels = [self._label(task) for task in sorted({int(w) // self._copies for w in worlds})]
        shown = ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if labels[5:] else "")
        return (
            f"actions for {len(worlds)} of {len(actions)} worlds are not finite, in tasks {shown}; "
            f"either the policy has diverged (a lower inner_lr or learning rate may help), or an "
            f"observation or reward that it was shown was not finite"
        )

    def _shape(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, self._copies, rows.shape[1])

    def _staged(self) -> "Staging":
        if self._staging is None:
            raise RuntimeError("call start() before any other method of GymnasiumTaskEnv")
        return self._staging

    def _release_staging(self) -> None:
        if self._staging is not None:
            self._staging.release()
            self._staging = None

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close everything when an exchange breaks off: unread replies would be misread later."""
        try:
            yield
        except BaseException:
            self.close()
            raise
