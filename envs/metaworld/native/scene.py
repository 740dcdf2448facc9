"""What a class of tasks looks like, and snapshots of metaworld's own resets in it."""

import importlib
import logging
import time
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.metaworld.gymnasium_face import MetaworldFamily
from envs.metaworld.native import row
from envs.metaworld.native.compiling import cache_folder, callback
from envs.metaworld.native.mujoco_memory import GoalModel, read_state, small_fields
from envs.metaworld.native.row import Source, TaskRow
from meta_rl.rollouts.gymnasium.worker import WorldTask

logger = logging.getLogger(__name__)

SENSED_FIELDS = (
    "xpos",
    "xquat",
    "xmat",
    "xipos",
    "geom_xpos",
    "geom_xmat",
    "site_xpos",
    "site_xmat",
    "qpos",
)


def task_module(name: str) -> ModuleType:
    """Return the file of a task: `peg-insert-side-v3` is `tasks/peg_insert_side.py`."""
    stem = name.removesuffix("-v3").replace("-", "_")
    return importlib.import_module(f"envs.metaworld.native.tasks.{stem}")


@dataclass(frozen=True)
class Snapshot:
    """A world as metaworld's reset of one goal leaves it."""

    state: NDArray[np.float64]
    row: NDArray[np.float64]
    model: GoalModel


@dataclass(frozen=True)
class Place:
    """Numbers of `mjData` that a place in the row gets: `field.ravel()[start : start + size]`."""

    field: str
    start: int
    size: int


class Scene:
    """One of the 50 classes: metaworld's environment of it, and its task's compiled code.

    Args:
        name: Such as `reach-v3`.
        reward_version: `v1` or `v2`.
        goal_size: How many of a task's params are its goal.
    """

    def __init__(self, name: str, reward_version: str, goal_size: int) -> None:
        module = task_module(name)
        self.name = name
        self.task: TaskRow = module.task
        self._family = MetaworldFamily(reward_version, {name: goal_size})
        self.env: Any = self._family.make(name).unwrapped
        self.model: mujoco.MjModel = self.env.model
        self._fresh = {field: each.copy() for field, each in small_fields(self.model).items()}
        self._live: dict[int, Place] | None = None
        self._snapshots: dict[tuple[float, ...], Snapshot] = {}
        started = time.perf_counter()
        self._reward = callback(getattr(module, f"reward_{reward_version}"), rows=2)
        observe = getattr(module, "observe", None)
        self._observe = None if observe is None else callback(observe, rows=1)
        if (took := time.perf_counter() - started) > 0.5:
            logger.info("compiled %s in %.1f s, kept in %s", name, took, cache_folder())

    @property
    def reward_address(self) -> int:
        """Where the compiled reward is."""
        return int(self._reward.address)

    @property
    def observe_address(self) -> int:
        """Where the compiled `observe` of the task is, or 0 if it has none."""
        return 0 if self._observe is None else int(self._observe.address)

    def snapshot(self, params: tuple[float, ...]) -> Snapshot:
        """Return the snapshot of a goal, made by metaworld's reset the first time."""
        known = self._snapshots.get(params)
        if known is None:
            known = self._snapshots[params] = self._take_snapshot(params)
        return known

    def sensed(self) -> dict[int, Place]:
        """Return what the task's row gets from `mjData`, by place in the row."""
        assert self._live is not None, "take a snapshot first: it shows what changes"
        named = {where: self.place(source) for where, source in self.task.sensed.items()}
        return named | self._live

    def place(self, source: Source) -> Place:
        """Return where `mjData` has what a named part of this model's is."""
        part = getattr(self.model, source.kind)(source.name)
        start = part.qposadr.item() if source.kind == "joint" else part.id * source.size
        return Place(source.field, int(start), source.size)

    def capture(self, env: Any) -> NDArray[np.float64]:
        """Return a row that holds the constants as they are in an environment now."""
        captured = np.zeros(self.task.size)
        for where, (source, size) in self.task.constants.items():
            captured[where : where + size] = _read_constant(env, source)
        return captured

    def _take_snapshot(self, params: tuple[float, ...]) -> Snapshot:
        env = self.env
        self._family.assign(env, WorldTask(self.name, 0, params))
        obs, _ = env.reset()
        live = self._find_live(env)
        assert self._live is None or live == self._live, (self._live, live)
        self._live = live
        captured = self.capture(env)
        captured[row.OBS : row.OBS + row.OBSERVATION_SIZE] = obs
        captured[row.FRAME : row.FRAME + row.FRAME_SIZE] = obs[: row.FRAME_SIZE]
        changed = {
            field: current.copy()
            for field, current in small_fields(self.model).items()
            if not np.array_equal(current, self._fresh[field], equal_nan=current.dtype.kind == "f")
        }
        snapshot = Snapshot(
            read_state(self.model, env.data), captured, GoalModel(self.model, changed)
        )
        for field in changed:  # other goals' models share this one's arrays
            getattr(self.model, field)[...] = self._fresh[field]
        return snapshot

    def _find_live(self, env: Any) -> dict[int, Place]:
        """Find the constants that are views of `mjData`, and so are none."""
        live = {}
        for where, (source, size) in self.task.constants.items():
            value = getattr(env, source, None) if isinstance(source, str) else source(env)
            if not isinstance(value, np.ndarray):
                continue
            for field in SENSED_FIELDS:
                whole = getattr(env.data, field)
                start, rest = divmod(value.ctypes.data - whole.ctypes.data, whole.itemsize)
                if 0 <= start < whole.size and rest == 0 and np.shares_memory(value, whole):
                    live[where] = Place(field, start, size)
        return live


@cache
def scene(name: str, reward_version: str, goal_size: int) -> Scene:
    """Return the scene of a class, made the first time: all simulators of a process share it."""
    return Scene(name, reward_version, goal_size)


def _read_constant(env: Any, source: row.Constant) -> Any:
    value = getattr(env, source, None) if isinstance(source, str) else source(env)
    return np.nan if value is None else np.asarray(value, dtype=np.float64).ravel()
