"""What runs inside a worker process of `meta_rl.rollouts.gymnasium.task_env`.

Nothing here may import torch: a worker starts in half a second and stays small because of it.
"""

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from meta_rl.core.errors import UserError
from meta_rl.core.spaces import (
    Space,
    action_of,
    check_action_space,
    check_observation_space,
    choices,
    flat_observation,
    flat_size,
)
from meta_rl.rollouts.gymnasium import checks
from meta_rl.rollouts.opengl import choose_opengl

STEP, RESET_ENDED, DRAW, DONE = b"step", b"reset", b"draw", b"done"
"""Messages without content; everything else on a pipe is pickled."""

FAREWELL_S = 2.0
"""How long workers may take to exit by themselves before they are killed."""

FOR_THE_PARENT = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
"""Signals of a terminal or a scheduler, which reach every process of a run; the parent answers for
all."""
IDLE = -1
"""What a worker that is busy with no world shows in `Block.current`."""


@dataclass(frozen=True)
class WorldTask:
    """A task as workers know it: `meta_rl.core.types.Task` without torch."""

    name: str
    index: int
    params: tuple[float, ...]


@runtime_checkable
class GymnasiumFamily(Protocol):
    """How the tasks of a family become Gymnasium environments. It must be picklable.

    A module that does not import torch keeps worker processes small. All randomness of an
    environment must come from its own `np_random`: NumPy's global generator is shared by the
    worlds of a process, so results would depend on the number of workers.
    """

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The keys of `info` that are reported every step; a missing one counts as zero."""
        ...

    def make(self, name: str) -> gymnasium.Env[Any, Any]:
        """Make an environment for tasks of that name."""
        ...

    def assign(self, env: gymnasium.Env[Any, Any], task: WorldTask) -> None:
        """Turn an environment, whatever it did before, into a task of the name it was made for.

        Its next `reset` follows at once, with a seed; or without one where the task changes between
        two episodes. From then on it must behave like a fresh one.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """Where things lie in the memory that parent and workers share.

    A world has one row `[next_obs | reward | terminated | truncated | metrics...]` for the
    parent, and one row of actions from it.
    """

    worlds: int
    workers: int
    observation_size: int
    action_size: int
    metrics: int

    @property
    def reward(self) -> int:
        """Column of the reward."""
        return self.observation_size

    @property
    def terminated(self) -> int:
        """Column of the terminated flag; that of the truncated flag follows."""
        return self.observation_size + 1

    @property
    def truncated(self) -> int:
        """Column of the truncated flag; those of the metrics follow."""
        return self.observation_size + 2

    @property
    def width(self) -> int:
        """Number of columns of a row."""
        return self.observation_size + 3 + self.metrics

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return 8 * self.workers + 4 * self.worlds * (self.width + self.action_size)


class Block:
    """The shared memory, seen as arrays. It has no name, so nothing is left when processes die."""

    def __init__(self, layout: Layout, descriptor: int) -> None:
        self.layout = layout
        memory = mmap.mmap(descriptor, layout.size_bytes)
        rows_at = 8 * layout.workers
        actions_at = rows_at + 4 * layout.worlds * layout.width
        shape = (layout.worlds, layout.width)
        self.current: NDArray[np.int64] = np.frombuffer(memory, np.int64, layout.workers)
        """The world that each worker is busy with, or IDLE."""
        self.rows: NDArray[np.float32] = np.frombuffer(
            memory, np.float32, layout.worlds * layout.width, rows_at
        ).reshape(shape)
        self.actions: NDArray[np.float32] = np.frombuffer(
            memory, np.float32, layout.worlds * layout.action_size, actions_at
        ).reshape(layout.worlds, layout.action_size)


def allocate(layout: Layout) -> int:
    """Return the descriptor of new zeroed memory that has no name in any file system."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("meta_rl")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, layout.size_bytes)
    return descriptor


class Order(NamedTuple):
    """Which worlds a worker steps from now on: those from `first`, one for each task."""

    layout: Layout
    first: int
    tasks: tuple[WorldTask, ...]
    seeds: tuple[int, ...]
    new_block: bool
    """Whether the descriptor of new shared memory follows on the pipe."""


class Change(NamedTuple):
    """Which worlds begin their next episode as other tasks."""

    worlds: tuple[int, ...]
    tasks: tuple[WorldTask, ...]


class Failure(NamedTuple):
    """What a worker says before it exits because of an exception."""

    user_error: bool
    """Whether the message is meant for the user as it stands."""
    message: str
    details: str
    """The worker's traceback."""


Env: TypeAlias = gymnasium.Env[Any, Any]


@dataclass(eq=False)  # equal environments are not the same
class World:
    """An environment with the task it was given."""

    name: str
    env: Env
    steps: int = 0
    ended: bool = False

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"environment {self.name!r}"


@dataclass
class Worlds:
    """The share of the worlds that one worker holds."""

    family: GymnasiumFamily
    number: int
    horizon: int
    action_space: Space
    """The one of the family's spec."""
    block: Block = field(init=False)
    first: int = 0
    active: list[World] = field(default_factory=list)
    idle: list[World] = field(default_factory=list)
    """Environments kept for later, the longest unused first."""
    most: int = 0
    """Most worlds ever held together, which bounds how many environments are kept."""

    def start(self, order: Order) -> None:
        """Re-task environments of the right names, make those that lack, and reset all."""
        self.first = order.first
        self.idle += self.active
        self.active = []
        self.most = max(self.most, len(order.tasks))
        reused = self._take_idle([task.name for task in order.tasks], len(order.tasks))
        for slot, (task, seed) in enumerate(zip(order.tasks, order.seeds, strict=True)):
            self.block.current[self.number] = order.first + slot
            world = reused[slot] or World(task.name, self._make(task.name))
            self.active.append(world)
            self.family.assign(world.env, task)
            self._reset(slot, seed)

    def step(self) -> None:
        """Step every world that has not ended; one that has stays as it is, with zero reward."""
        layout, horizon = self.block.layout, self.horizon
        names = self.family.metric_names
        for slot, world in enumerate(self.active):
            index = self.first + slot
            row = self.block.rows[index]
            if world.ended:
                row[layout.reward] = 0.0
                row[layout.truncated + 1 :] = 0.0
                continue
            self.block.current[self.number] = index
            action = action_of(world.env.action_space, self.block.actions[index])
            obs, reward, terminated, truncated, info = checks.step(world.env, action, world.label)
            world.steps += 1
            truncated = truncated or (world.steps >= horizon and not terminated)
            world.ended = terminated or truncated
            row[: layout.observation_size] = flat_observation(world.env.observation_space, obs)
            row[layout.reward] = reward
            row[layout.terminated] = terminated
            row[layout.truncated] = truncated
            for column, name in enumerate(names, start=layout.truncated + 1):
                row[column] = info.get(name, 0.0)

    def reset_ended(self) -> None:
        """Begin a new episode in the worlds that ended."""
        for slot, world in enumerate(self.active):
            if world.ended:
                self.block.current[self.number] = self.first + slot
                self._reset(slot, None)

    def change(self, order: Change) -> None:
        """Turn worlds between two episodes into other tasks; `reset_ended` begins the next."""
        for index, task in zip(order.worlds, order.tasks, strict=True):
            self.block.current[self.number] = index
            world = self.active[index - self.first]
            if task.name != world.name:
                self.idle.append(world)
                (kept,) = self._take_idle([task.name], len(self.active))
                # The chance of a world goes on, in whichever environment it lives.
                random = world.env.unwrapped.np_random
                world = self.active[index - self.first] = kept or World(
                    task.name, self._make(task.name)
                )
                world.env.unwrapped.np_random = random
            self.family.assign(world.env, task)
            world.ended = True

    def draw(self) -> NDArray[np.uint8]:
        """Return a picture of the first world."""
        world = self.active[0]
        if world.env.render_mode != "rgb_array":
            raise UserError(
                f"environment {world.name!r} cannot be drawn: its render_mode is "
                f"{world.env.render_mode!r}; make it with render_mode='rgb_array' (a class or "
                f"function of your own needs the keyword render_mode)"
            )
        choose_opengl()
        picture: NDArray[Any] = np.asarray(world.env.render())
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(
                f"environment {world.name!r} cannot be filmed: its render() gives an array of "
                f"{picture.dtype} of shape {picture.shape}, not of uint8 (height, width, 3)"
            )
        return np.ascontiguousarray(picture)

    def close(self) -> None:
        """Close all environments."""
        for world in [*self.active, *self.idle]:
            world.env.close()

    def _reset(self, slot: int, seed: int | None) -> None:
        world = self.active[slot]
        obs, _ = checks.reset(world.env, seed, world.label)
        world.steps, world.ended = 0, False
        row = self.block.rows[self.first + slot]
        row[: self.block.layout.observation_size] = flat_observation(
            world.env.observation_space, obs
        )

    def _take_idle(self, names: list[str], active: int) -> list[World | None]:
        """Return an idle world for each name that has one; close those beyond the bound.

        Args:
            active: How many are active then.
        """
        taken: list[World | None] = []
        for name in names:
            found = next((world for world in reversed(self.idle) if world.name == name), None)
            if found is not None:
                self.idle.remove(found)
            taken.append(found)
        surplus = max(0, len(self.idle) + active - self.most)
        for world in self.idle[:surplus]:
            world.env.close()
        del self.idle[:surplus]
        return taken

    def _make(self, name: str) -> Env:
        env = self.family.make(name)
        _check_spaces(env, name, self.block.layout, self.action_space)
        return env


def _check_spaces(env: Env, name: str, layout: Layout, promised: Space) -> None:
    """Raise a UserError unless an environment has the spaces that the family promised."""
    where = f"environment {name!r}"
    check_observation_space(env.observation_space, where)
    check_action_space(env.action_space, where)
    observed, acted = flat_size(env.observation_space), flat_size(env.action_space)
    if observed != layout.observation_size:
        raise UserError(
            f"{where} observes {observed} numbers, but the family's spec says "
            f"observation_size {layout.observation_size}; correct the spec"
        )
    if acted != layout.action_size or choices(env.action_space) != choices(promised):
        raise UserError(
            f"{where} takes actions in {env.action_space}, but the family's spec says {promised}; "
            f"correct the spec"
        )


def _summary(error: BaseException) -> str:
    """Return the last line of a traceback, with the place it was raised."""
    line = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    return f"{line} ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"


def serve(
    connection: Connection, number: int, horizon: int, action_space: Space, pickled_family: bytes
) -> None:
    """Obey the parent until its end of the pipe closes, also because it was killed."""
    leave_signals_to_the_parent()
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    # Environments may start processes of their own, which multiprocessing denies to a daemon.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    faulthandler.enable()
    worlds: Worlds | None = None
    try:
        while (message := _receive(connection)) is not None:
            if worlds is None:
                family = pickle.loads(pickled_family)
                worlds = Worlds(family, number, horizon, action_space)
            picture = None
            if message == STEP:
                worlds.step()
            elif message == RESET_ENDED:
                worlds.reset_ended()
            elif message == DRAW:
                picture = worlds.draw()
            else:
                order: Order | Change = pickle.loads(message)
                if isinstance(order, Change):
                    worlds.change(order)
                else:
                    if order.new_block:
                        worlds.block = _attach(connection, order.layout)
                    worlds.start(order)
            worlds.block.current[number] = IDLE
            _send(connection, DONE)
            if picture is not None:
                _send(connection, pickle.dumps(picture))
    except Exception as error:
        known = isinstance(error, UserError)
        failure = Failure(known, str(error) if known else _summary(error), traceback.format_exc())
        _send(connection, pickle.dumps(failure))
        raise SystemExit(1) from None
    finally:
        if worlds is not None:
            worlds.close()


def end_with_the_parent() -> None:
    """End this process some time after its parent, also if an environment never returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(FAREWELL_S)
    os._exit(1)


def leave_signals_to_the_parent() -> None:
    """Do nothing at the signals of `FOR_THE_PARENT`, which are blocked until then.

    Processes that an environment starts ignore them too, except SIGTERM: `terminate` ends them.
    """
    for each in FOR_THE_PARENT:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # a program that it starts has none
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_PARENT)


def _receive(connection: Connection) -> bytes | None:
    """Return the next message, or None when the parent has gone."""
    try:
        return connection.recv_bytes()
    except (EOFError, ConnectionError):
        return None


def _send(connection: Connection, message: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the next `_receive` notices that too
        connection.send_bytes(message)


def _attach(connection: Connection, layout: Layout) -> Block:
    descriptor = reduction.recv_handle(connection)
    try:
        return Block(layout, descriptor)
    finally:
        os.close(descriptor)
