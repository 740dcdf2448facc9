"""What is observed of Meta-World's robot and objects: `SawyerXYZEnv.step`, in its order.

All is a function of the row, into which a simulator has sensed what the task's layout names, and of
the task's `plan` and `numbers`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from envs.metaworld.native.row import (
    FRAME,
    FRAME_SIZE,
    LEFT_CLAW,
    LEFT_TIP,
    MOST_OBJECTS,
    OBJECT,
    OBS,
    OPENING,
    RIGHT_CLAW,
    RIGHT_TIP,
    TCP,
    Orientation,
    TaskRow,
)
from meta_rl.rollouts.mujoco.compiling import Integers, Row, compiled, multiply_add

# Places in a plan: how many objects there are, and for each where its position and its orientation
# are in the row, and the orientation's kind.
OBJECT_COUNT, OBJECTS = 0, 1
OBJECT_PLACES = 3
PLAN_SIZE = OBJECTS + MOST_OBJECTS * OBJECT_PLACES
# Places in the numbers: for each object the offset of its position and its fixed quaternion.
OBJECT_NUMBERS = 7
NUMBERS_SIZE = MOST_OBJECTS * OBJECT_NUMBERS
OBJECT_SIZE = 7  # position and quaternion
QUATERNION, MATRIX = int(Orientation.QUATERNION), int(Orientation.MATRIX)


def plan_of(task: TaskRow) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the plan and the numbers of a task."""
    plan = np.zeros(PLAN_SIZE, dtype=np.int64)
    numbers = np.zeros(NUMBERS_SIZE)
    plan[OBJECT_COUNT] = len(task.objects)
    for count, each in enumerate(task.objects):
        here, there = OBJECTS + count * OBJECT_PLACES, count * OBJECT_NUMBERS
        plan[here : here + OBJECT_PLACES] = each.position, each.orientation, each.kind
        numbers[there : there + OBJECT_NUMBERS] = *each.offset, *each.quaternion
    return plan, numbers


@compiled
def observe_parts(plan: Integers, numbers: Row, x: Row) -> None:
    """Write the middle of the finger tips, and this frame of the observation after the one before.

    The fingers' distance is rounded as OpenBLAS does in `numpy.linalg.norm`: a scripted policy that
    sees a last bit differ may act otherwise, and grasp or miss.
    """
    for axis in range(3):
        x[TCP + axis] = (x[RIGHT_TIP + axis] + x[LEFT_TIP + axis]) / 2.0
    for place in range(FRAME_SIZE):
        x[OBS + FRAME_SIZE + place] = x[FRAME + place]
    squared = 0.0
    for axis in range(3):
        apart = x[RIGHT_CLAW + axis] - x[LEFT_CLAW + axis]
        squared = multiply_add(apart, apart, squared)
    x[OPENING] = min(max(math.sqrt(squared) / 0.1, 0.0), 1.0)
    for number in range(plan[OBJECT_COUNT]):
        place = OBJECT + number * OBJECT_SIZE
        here = OBJECTS + number * OBJECT_PLACES
        constants = number * OBJECT_NUMBERS
        for axis in range(3):
            x[place + axis] = x[plan[here] + axis] + numbers[constants + axis]
        orientation = plan[here + 1]
        kind = plan[here + 2]
        if kind == MATRIX:
            write_scipy_quaternion(x, orientation, place + 3)
        elif kind == QUATERNION:
            for axis in range(4):
                x[place + 3 + axis] = x[orientation + axis]
        else:
            for axis in range(4):
                x[place + 3 + axis] = numbers[constants + 3 + axis]


@compiled
def finish_frame(x: Row) -> None:
    """Keep this frame for the next observation, and clip both to `SawyerXYZEnv._HAND_SPACE`.

    What is not of the hand has no bounds.
    """
    for place in range(FRAME_SIZE):
        x[FRAME + place] = x[OBS + place]
    for frame in range(2):
        hand = OBS + frame * FRAME_SIZE
        x[hand] = min(max(x[hand], -0.525), 0.525)
        x[hand + 1] = min(max(x[hand + 1], 0.348), 1.025)
        x[hand + 2] = min(max(x[hand + 2], -0.0525), 0.7)


@compiled
def write_scipy_quaternion(x: Row, matrix: int, place: int) -> None:
    """Write what `scipy.spatial.transform.Rotation.from_matrix(...).as_quat()` gives, w last.

    Args:
        matrix: Where in the row the rotation matrix is, row by row.
    """
    trace = x[matrix] + x[matrix + 4] + x[matrix + 8]
    largest = trace
    choice = 3
    if x[matrix + 8] >= largest:
        largest = x[matrix + 8]
        choice = 2
    if x[matrix + 4] >= largest:
        largest = x[matrix + 4]
        choice = 1
    if x[matrix] >= largest:
        choice = 0
    if choice == 3:
        x[place] = x[matrix + 7] - x[matrix + 5]
        x[place + 1] = x[matrix + 2] - x[matrix + 6]
        x[place + 2] = x[matrix + 3] - x[matrix + 1]
        x[place + 3] = 1.0 + trace
    else:
        i = choice
        j = (choice + 1) % 3
        k = (choice + 2) % 3
        x[place + i] = 1.0 - trace + 2.0 * x[matrix + 4 * i]
        x[place + j] = x[matrix + 3 * j + i] + x[matrix + 3 * i + j]
        x[place + k] = x[matrix + 3 * k + i] + x[matrix + 3 * i + k]
        x[place + 3] = x[matrix + 3 * k + j] - x[matrix + 3 * j + k]
    squared = 0.0
    for axis in range(4):
        squared += x[place + axis] * x[place + axis]
    norm = math.sqrt(squared)
    for axis in range(4):
        x[place + axis] /= norm
