"""What one model's worlds look like, and snapshots of their resets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from meta_rl.rollouts.mujoco.memory import TaskModel, read_state, small_fields
from meta_rl.rollouts.mujoco.row import Constant, RowLayout, Source

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


MOST_SNAPSHOTS = 4096
"""Snapshots that a scene keeps, the newest: a family may draw new tasks for every meta-batch."""


@dataclass(frozen=True)
class Snapshot:
    """A world as the reset of one task leaves it, before any chance."""

    state: NDArray[np.float64]
    row: NDArray[np.float64]
    model: TaskModel


@dataclass(frozen=True)
class Place:
    """Numbers of `mjData` that a place in the row gets: `field.ravel()[start : start + size]`."""

    field: str
    start: int
    size: int


@dataclass(frozen=True)
class Binding:
    """What a scene's compiled `act` and `observe` index, made for one `mjData`."""

    addresses: NDArray[np.int64]
    numbers: NDArray[np.float64]


@dataclass(frozen=True)
class TaskCode:
    """The addresses of a scene's compiled functions (`compiling.callback`)."""

    act: int
    """Sets the controls: `act(addresses, numbers, action)`."""
    observe: int
    """Writes the row after a step: `observe(addresses, numbers, action, row)`."""
    reward: int
    """Writes the outputs: `reward(row, outputs)`."""


class Scene(ABC):
    """The worlds of one model: an environment that resets them, and their compiled code.

    Args:
        env: Has `model` and `data` of MuJoCo, and the attributes that the row's constants name.
        row: What the row of a world holds.
    """

    def __init__(self, env: Any, row: RowLayout) -> None:
        self.env = env
        self.model: mujoco.MjModel = env.model
        self.row = row
        self._fields = small_fields(self.model)
        self._fresh = {field: each.copy() for field, each in self._fields.items()}
        self._live: dict[int, Place] | None = None
        self._snapshots: dict[tuple[float, ...], Snapshot] = {}

    @property
    @abstractmethod
    def code(self) -> TaskCode:
        """Where the compiled functions are."""

    @abstractmethod
    def reset(self, params: tuple[float, ...]) -> Mapping[int, NDArray[np.float64]]:
        """Reset `env` to a task; return what its row holds beside constants, by place."""

    @property
    def starts_at_random(self) -> bool:
        """Whether every episode begins elsewhere; if not, all begin as the snapshot has it."""
        return False

    def draw_start(self, state: NDArray[np.float64], random: np.random.Generator) -> None:
        """Move the state of a snapshot to where an episode begins.

        MuJoCo then works out what follows from it, and `observe` writes the row.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its episodes begin")

    @abstractmethod
    def bind(self, data: mujoco.MjData) -> Binding:
        """Return what the compiled functions index when they work on `data`."""

    def snapshot(self, params: tuple[float, ...]) -> Snapshot:
        """Return the snapshot of a task, made by a reset the first time."""
        known = self._snapshots.get(params)
        if known is None:
            known = self._snapshots[params] = self._take_snapshot(params)
            if len(self._snapshots) > MOST_SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]
        return known

    def constant_places(self) -> list[tuple[int, int]]:
        """Return where a row holds what a task alone decides: first place and size of each.

        These are its constants; a scene whose `reset` returns more of that kind must add it.
        """
        live = self._live or {}
        return [
            (where, size) for where, (_, size) in self.row.constants.items() if where not in live
        ]

    def sensed(self) -> dict[int, Place]:
        """Return what the row gets from `mjData` after each step, by place in the row."""
        assert self._live is not None, "take a snapshot first: it shows what changes"
        named = {where: self.place(source) for where, source in self.row.sensed.items()}
        return named | self._live

    def place(self, source: Source) -> Place:
        """Return where `mjData` has what a named part of this model's is."""
        part = getattr(self.model, source.kind)(source.name)
        if source.kind == "joint":
            start = (part.dofadr if source.field == "qvel" else part.qposadr).item()
        else:
            start = part.id * source.size
        return Place(source.field, int(start), source.size)

    def address(self, data: mujoco.MjData, source: Source) -> int:
        """Return where in memory `data` has what a named part of this model's is."""
        place = self.place(source)
        return field_address(data, place.field, place.start)

    def capture(self, env: Any) -> NDArray[np.float64]:
        """Return a row that holds the constants as they are in an environment now."""
        captured = np.zeros(self.row.size)
        for where, (source, size) in self.row.constants.items():
            captured[where : where + size] = _read_constant(env, source)
        return captured

    def _take_snapshot(self, params: tuple[float, ...]) -> Snapshot:
        shown = self.reset(params)
        live = self._find_live(self.env)
        assert self._live is None or live == self._live, (self._live, live)
        self._live = live
        row = self.capture(self.env)
        for where, numbers in shown.items():
            row[where : where + len(numbers)] = numbers
        changed = {
            field: current.copy()
            for field, current in self._fields.items()
            if not np.array_equal(current, self._fresh[field], equal_nan=current.dtype.kind == "f")
        }
        state = read_state(self.model, self.env.data)
        snapshot = Snapshot(state, row, TaskModel(self.model, changed))
        for field in changed:  # other tasks' models share this one's arrays
            getattr(self.model, field)[...] = self._fresh[field]
        return snapshot

    def _find_live(self, env: Any) -> dict[int, Place]:
        """Find the constants that are views of `mjData`, and so are none."""
        live = {}
        for where, (source, size) in self.row.constants.items():
            value = getattr(env, source, None) if isinstance(source, str) else source(env)
            if not isinstance(value, np.ndarray):
                continue
            for field in SENSED_FIELDS:
                whole = getattr(env.data, field)
                start, rest = divmod(value.ctypes.data - whole.ctypes.data, whole.itemsize)
                if 0 <= start < whole.size and rest == 0 and np.shares_memory(value, whole):
                    live[where] = Place(field, start, size)
        return live


def field_address(data: mujoco.MjData, field: str, start: int = 0) -> int:
    """Return where in memory an array of `mjData` has its number `start`."""
    array = getattr(data, field)
    return int(array.ctypes.data) + start * int(array.itemsize)


def _read_constant(env: Any, source: Constant) -> Any:
    value = getattr(env, source, None) if isinstance(source, str) else source(env)
    return np.nan if value is None else np.asarray(value, dtype=np.float64).ravel()
