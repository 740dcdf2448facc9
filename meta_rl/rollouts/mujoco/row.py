"""What task code sees of a world: one row of numbers, and which of MuJoCo's numbers are in it.

A task declares what its row holds and gets places to index it with:

    row = RowLayout(size=20)
    PEG_HEAD = row.site("pegHead")

puts the site's position into three places from `PEG_HEAD` on, after each step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

Constant: TypeAlias = str | Callable[[Any], Any]
"""An attribute of the environment that resets the worlds, by name or as a function of it."""


class Finish(IntEnum):
    """What MuJoCo works out after the sub-steps, for `observe` and `reward` to see.

    Without it they see what the last sub-step began with, but for positions and speeds.
    """

    NOTHING = 0
    FORWARD = 1
    """All that follows from the new state: `mj_forward`."""
    FORCES = 2
    """The forces between bodies: `mj_rnePostConstraint`, as Gymnasium's robots do."""


@dataclass(frozen=True)
class WorldFormat:
    """What the worlds of a family have in common, whatever their models."""

    observation: slice
    """The places of the row that are the observation."""
    finite: slice
    """Places of the row that are finite unless a world has diverged."""
    outputs: int
    """Numbers that a reward function reports; the first is the reward."""
    metrics: Mapping[str, int]
    """The outputs that a step's metrics are, by the metrics' names."""
    action_size: int
    substeps: int
    """MuJoCo's steps in one env step."""
    finish: Finish = Finish.FORWARD
    terminated: int | None = None
    """The output that is above 0 where an episode terminates; without one, none does."""


@dataclass(frozen=True)
class Source:
    """Numbers that belong to a named part of a MuJoCo model."""

    kind: str
    """`body`, `geom`, `site` or `joint`."""
    name: str
    field: str
    """The array of `mjData` that has them."""
    size: int


def body(name: str) -> Source:
    """Return the position of a body."""
    return Source("body", name, "xpos", 3)


def geom(name: str) -> Source:
    """Return the position of a geom."""
    return Source("geom", name, "geom_xpos", 3)


def site(name: str) -> Source:
    """Return the position of a site."""
    return Source("site", name, "site_xpos", 3)


def joint(name: str) -> Source:
    """Return the angle or displacement of a joint."""
    return Source("joint", name, "qpos", 1)


def joint_speed(name: str) -> Source:
    """Return the speed of a joint."""
    return Source("joint", name, "qvel", 1)


def body_quaternion(name: str) -> Source:
    """Return the orientation of a body as MuJoCo's quaternion, w first."""
    return Source("body", name, "xquat", 4)


def body_rotation(name: str) -> Source:
    """Return the orientation of a body as a rotation matrix, row by row."""
    return Source("body", name, "xmat", 9)


def geom_rotation(name: str) -> Source:
    """Return the orientation of a geom as a rotation matrix, row by row."""
    return Source("geom", name, "geom_xmat", 9)


def site_rotation(name: str) -> Source:
    """Return the orientation of a site as a rotation matrix, row by row."""
    return Source("site", name, "site_xmat", 9)


@dataclass
class RowLayout:
    """The row of one task."""

    size: int
    """Numbers in the row. A family that keeps places of its own at the front begins with them."""
    sensed: dict[int, Source] = field(default_factory=dict)
    """What is copied from `mjData` after each step, by place in the row."""
    constants: dict[int, tuple[Constant, int]] = field(default_factory=dict)
    """What a reset leaves in the environment, and its size, by place in the row."""
    written: set[int] = field(default_factory=set)
    """Constants that the reward writes: its memory."""

    def body(self, name: str) -> int:
        """Sense the position of a body."""
        return self.sense(body(name))

    def geom(self, name: str) -> int:
        """Sense the position of a geom."""
        return self.sense(geom(name))

    def site(self, name: str) -> int:
        """Sense the position of a site."""
        return self.sense(site(name))

    def joint(self, name: str) -> int:
        """Sense the angle or displacement of a joint."""
        return self.sense(joint(name))

    def sense(self, source: Source) -> int:
        """Sense anything else that a model's part has."""
        place = self._place(source.size)
        self.sensed[place] = source
        return place

    def constant(self, value: Constant, size: int = 1) -> int:
        """Keep an attribute of the environment as its reset left it.

        An attribute that is a view of the simulator's memory changes as the world moves. It is
        found and sensed instead.

        Args:
            value: The attribute's name, or a function of the environment.
            size: 3 for a point.
        """
        place = self._place(size)
        self.constants[place] = (value, size)
        return place

    def memory(self, value: Constant, size: int = 1) -> int:
        """Keep an attribute that the reward itself writes, by `x[place] = ...`.

        It starts as the reset leaves it; None starts as NaN, False as 0, True as 1.
        """
        place = self.constant(value, size)
        self.written.update(range(place, place + size))
        return place

    def _place(self, size: int) -> int:
        place = self.size
        self.size += size
        return place
