"""What a reward sees of a world: one row of numbers, and the names of their places.

A row begins with what all tasks share, at the places below. A task's file asks for more:

    task = TaskRow()
    PEG_HEAD = task.site("pegHead")

puts the site's position into three places from `PEG_HEAD` on, before each call of the reward.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from meta_rl.rollouts.mujoco.row import Constant, RowLayout, Source, WorldFormat, body, site

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
RIGHT_CLAW = 83
LEFT_CLAW = 86
RIGHT_TIP = 89
LEFT_TIP = 92
SHARED_PLACES = 95

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

FORMAT = WorldFormat(
    observation=slice(OBS, OBS + OBSERVATION_SIZE),
    finite=slice(FRAME, FRAME + FRAME_SIZE),  # clipping hides what is not finite in OBS
    outputs=OUTPUTS,
    metrics={"success": SUCCESS},
    action_size=4,
    substeps=5,
)
"""What the worlds of all 50 classes have in common."""

MOST_OBJECTS = 2
"""Objects that an observation has places for."""

Numbers3: TypeAlias = tuple[float, float, float]
Numbers4: TypeAlias = tuple[float, float, float, float]


class Orientation(IntEnum):
    """How the row has an object's quaternion."""

    FIXED = 0
    """It has none: the quaternion never changes."""
    QUATERNION = 1
    MATRIX = 2
    """As a rotation matrix, from which `scipy` gets the quaternion."""


@dataclass(frozen=True)
class Object:
    """An object of the observation: position plus a fixed offset, and orientation."""

    position: int
    """The place in the row where its position is sensed."""
    offset: Numbers3
    kind: Orientation
    orientation: int
    """The place in the row where its quaternion or its rotation matrix is sensed."""
    quaternion: Numbers4
    """The quaternion that a FIXED one always has."""


@dataclass
class TaskRow(RowLayout):
    """The row of one of Meta-World's tasks: what it holds beside the places that all share."""

    size: int = SHARED_PLACES
    constants: dict[int, tuple[Constant, int]] = field(
        default_factory=lambda: {
            TARGET: ("_target_pos", 3),
            OBJECT_START: ("obj_init_pos", 3),
            TCP_START: ("init_tcp", 3),
            HAND_START: ("hand_init_pos", 3),
        }
    )
    sensed: dict[int, Source] = field(
        default_factory=lambda: {
            HAND: body("hand"),
            LEFT_PAD: body("leftpad"),
            RIGHT_PAD: body("rightpad"),
            RIGHT_CLAW: body("rightclaw"),
            LEFT_CLAW: body("leftclaw"),
            RIGHT_TIP: site("rightEndEffector"),
            LEFT_TIP: site("leftEndEffector"),
        }
    )
    objects: list[Object] = field(default_factory=list)
    senses_touch: bool = False

    def object(
        self,
        position: Source,
        quaternion: Source | Numbers4,
        offset: Numbers3 = (0.0, 0.0, 0.0),
    ) -> None:
        """Observe an object: metaworld's `_get_pos_objects` and `_get_quat_objects`."""
        assert len(self.objects) < MOST_OBJECTS
        kind, orientation, fixed = Orientation.FIXED, 0, (0.0, 0.0, 0.0, 0.0)
        if isinstance(quaternion, Source):
            kind = Orientation.QUATERNION if quaternion.size == 4 else Orientation.MATRIX
            orientation = self.sense(quaternion)
        else:
            fixed = quaternion
        self.objects.append(Object(self.sense(position), offset, kind, orientation, fixed))

    def touching(self) -> None:
        """Sense `TOUCHING`: metaworld's `touching_main_object`."""
        self.senses_touch = True
