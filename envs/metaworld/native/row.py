"""What a reward sees of a world: one row of numbers, and the names of their places.

A row begins with what all tasks share, at the places below. A task's file asks for more:

    task = TaskRow()
    PEG_HEAD = task.site("pegHead")

puts the site's position into three places from `PEG_HEAD` on, before each call of the reward.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

TCP = 0
"""Middle of the two finger tips (3). metaworld's v1 rewards call it `fingerCOM`."""
LEFT_PAD = 3
RIGHT_PAD = 6
TOUCHING = 9
"""1 when both pads press on the task's main object; needs `task.touching()`."""
ACTION = 10
"""Displacement (3) and gripper effort (1), clipped to [-1, 1]."""
EFFORT = 13
OBS = 14
"""The observation (39), clipped to its space, as the reward of metaworld gets it."""
HAND = 14
"""`obs[:3]`"""
OPENING = 17
"""`obs[3]`, between 0 and 1."""
OBJECT = 18
"""`obs[4:7]`"""
OBJECT_QUATERNION = 21
SECOND_OBJECT = 25
"""`obs[11:14]`"""
SECOND_OBJECT_QUATERNION = 28
FRAME = 53
"""The first 18 numbers of the observation before they are clipped, for the next observation."""
TARGET = 71
"""`_target_pos`"""
OBJECT_START = 74
"""`obj_init_pos`"""
TCP_START = 77
"""`init_tcp`"""
HAND_START = 80
"""`hand_init_pos`"""
SHARED_PLACES = 83

REWARD = 0
SUCCESS = 1
NEAR_OBJECT = 2
GRASP_SUCCESS = 3
GRASP_REWARD = 4
IN_PLACE_REWARD = 5
OBJECT_TO_TARGET = 6
OUTPUT_NAMES = (
    "reward",
    "success",
    "near_object",
    "grasp_success",
    "grasp_reward",
    "in_place_reward",
    "obj_to_target",
)
"""What a reward reports, by metaworld's names."""
OUTPUTS = len(OUTPUT_NAMES)
OBSERVATION_SIZE = 39
FRAME_SIZE = 18

Constant: TypeAlias = str | Callable[[Any], Any]


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


def body_quaternion(name: str) -> Source:
    """Return the orientation of a body as MuJoCo's quaternion, w first: `data.body().xquat`."""
    return Source("body", name, "xquat", 4)


def body_rotation(name: str) -> Source:
    """Return the orientation of a body, which the observation turns into scipy's quaternion."""
    return Source("body", name, "xmat", 9)


def geom_rotation(name: str) -> Source:
    """Return the orientation of a geom, which the observation turns into scipy's quaternion."""
    return Source("geom", name, "geom_xmat", 9)


def site_rotation(name: str) -> Source:
    """Return the orientation of a site, which the observation turns into scipy's quaternion."""
    return Source("site", name, "site_xmat", 9)


Quaternion: TypeAlias = Source | tuple[float, float, float, float]


@dataclass(frozen=True)
class Object:
    """An object of the observation: position plus a fixed offset, and orientation."""

    position: Source
    quaternion: Quaternion
    offset: tuple[float, float, float]


@dataclass
class TaskRow:
    """The row of one task: what it holds beside the places that all tasks share."""

    objects: list[Object] = field(default_factory=list)
    sensed: dict[int, Source] = field(default_factory=dict)
    constants: dict[int, tuple[Constant, int]] = field(
        default_factory=lambda: {
            TARGET: ("_target_pos", 3),
            OBJECT_START: ("obj_init_pos", 3),
            TCP_START: ("init_tcp", 3),
            HAND_START: ("hand_init_pos", 3),
        }
    )
    written: set[int] = field(default_factory=set)
    """Constants that the reward writes: its memory."""
    senses_touch: bool = False
    size: int = SHARED_PLACES

    def object(
        self,
        position: Source,
        quaternion: Quaternion,
        offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Observe an object: metaworld's `_get_pos_objects` and `_get_quat_objects`."""
        self.objects.append(Object(position, quaternion, offset))

    def body(self, name: str) -> int:
        """Sense the position of a body: `get_body_com(name)`, `data.body(name).xpos`."""
        return self.sense(body(name))

    def geom(self, name: str) -> int:
        """Sense the position of a geom: `data.geom(name).xpos`."""
        return self.sense(geom(name))

    def site(self, name: str) -> int:
        """Sense the position of a site: `_get_site_pos(name)`, `data.site(name).xpos`."""
        return self.sense(site(name))

    def joint(self, name: str) -> int:
        """Sense the angle or displacement of a joint: `data.joint(name).qpos`."""
        return self.sense(joint(name))

    def touching(self) -> None:
        """Sense `TOUCHING`: metaworld's `touching_main_object`."""
        self.senses_touch = True

    def sense(self, source: Source) -> int:
        """Sense anything else that a model's part has."""
        place = self._place(source.size)
        self.sensed[place] = source
        return place

    def constant(self, value: Constant, size: int = 1) -> int:
        """Keep an attribute of metaworld's environment as its reset left it.

        Where that attribute is a view of the simulator's memory, as `init_left_pad` is, its value
        changes in metaworld too as the world moves: then it is sensed instead, all by itself.

        Args:
            value: The attribute's name, or a function of the environment.
            size: 3 for a point.
        """
        place = self._place(size)
        self.constants[place] = (value, size)
        return place

    def memory(self, value: Constant, size: int = 1) -> int:
        """Keep an attribute that the reward itself writes, by `x[place] = ...`.

        It starts as metaworld's reset leaves it; None starts as NaN, False as 0, True as 1.
        """
        place = self.constant(value, size)
        self.written.update(range(place, place + size))
        return place

    def _place(self, size: int) -> int:
        place = self.size
        self.size += size
        return place
