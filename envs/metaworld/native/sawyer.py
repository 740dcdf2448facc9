"""How Meta-World's robot acts and what is observed of it: `SawyerXYZEnv.step`, in its order."""

import math
from functools import cache
from typing import Any

import mujoco
import numpy as np

from envs.metaworld.native.row import (
    ACTION,
    FRAME,
    FRAME_SIZE,
    HAND,
    LEFT_PAD,
    OBJECT,
    OBS,
    OPENING,
    RIGHT_PAD,
    TCP,
    TOUCHING,
    Quaternion,
    TaskRow,
)
from meta_rl.rollouts.mujoco.compiling import (
    ACT,
    OBSERVE,
    Action,
    Addresses,
    Row,
    address_of,
    call_with_1,
    callback,
    compiled,
    multiply_add,
    read_address,
    read_double,
    read_int32,
    write_double,
)
from meta_rl.rollouts.mujoco.memory import (
    CONTACT_BYTES,
    CONTACT_FORCE_INDEX,
    CONTACT_GEOM1,
    CONTACT_GEOM2,
    offsets,
)
from meta_rl.rollouts.mujoco.row import body, site
from meta_rl.rollouts.mujoco.scene import Binding, Scene, field_address

# Places in the addresses of a binding ...
HAND_BODY, RIGHT_CLAW, LEFT_CLAW = 0, 1, 2
RIGHT_TIP, LEFT_TIP, LEFT_PAD_BODY, RIGHT_PAD_BODY = 3, 4, 5, 6
MOCAP_POS, MOCAP_QUAT, CONTROL = 7, 8, 9
CONTACTS, CONTACT_COUNT, CONSTRAINT_FORCE = 10, 11, 12
LEFT_PAD_GEOM, RIGHT_PAD_GEOM, MAIN_OBJECT = 13, 14, 15  # numbers of geoms; -1 if not sensed
TASK_OBSERVE, OBJECT_COUNT, OBJECTS = 16, 17, 18
# ... where each object has its position's address, its orientation's and its quaternion's kind,
OBJECT_ADDRESSES = 3
# and in its numbers: the lower and upper bounds of the hand's target, then for each object the
# offset of its position and its fixed quaternion.
LOWER_BOUND, UPPER_BOUND, OBJECT_CONSTANTS = 0, 3, 6
OBJECT_NUMBERS = 7

QUATERNION_FIXED, QUATERNION_COPIED, QUATERNION_FROM_MATRIX = 0, 1, 2
OBJECT_SIZE = 7  # position and quaternion


@cache
def functions() -> tuple[Any, Any]:
    """Return compiled `act` and `observe`, which all classes share."""
    return callback(act, ACT), callback(observe, OBSERVE)


def bind(scene: Scene, data: mujoco.MjData, task: TaskRow, task_observe: int) -> Binding:
    """Return what `act` and `observe` index.

    Args:
        task_observe: The address of the task's own compiled `observe`, or 0.
    """

    def quaternion(given: Quaternion) -> tuple[int, int]:
        if isinstance(given, tuple):
            return 0, QUATERNION_FIXED
        kind = QUATERNION_COPIED if given.size == 4 else QUATERNION_FROM_MATRIX
        return scene.address(data, given), kind

    parts = (
        body("hand"),
        body("rightclaw"),
        body("leftclaw"),
        site("rightEndEffector"),
        site("leftEndEffector"),
        body("leftpad"),
        body("rightpad"),
    )
    geoms = [-1, -1, -1]
    if task.senses_touch:
        pads = [int(scene.model.geom(name).id) for name in ("leftpad_geom", "rightpad_geom")]
        geoms = [*pads, int(scene.env._get_id_main_object())]
    addresses = [
        *(scene.address(data, part) for part in parts),
        *(field_address(data, field) for field in ("mocap_pos", "mocap_quat", "ctrl")),
        data._address + offsets().contacts,
        data._address + offsets().contact_count,
        data._address + offsets().constraint_force,
        *geoms,
        task_observe,
        len(task.objects),
    ]
    numbers = [*scene.env.mocap_low, *scene.env.mocap_high]
    for each in task.objects:
        addresses += [scene.address(data, each.position), *quaternion(each.quaternion)]
        fixed = each.quaternion if isinstance(each.quaternion, tuple) else (0.0,) * 4
        numbers += [*each.offset, *fixed]
    return Binding(np.array(addresses, dtype=np.int64), np.array(numbers, dtype=np.float64))


def act(addresses: Addresses, numbers: Row, action: Action) -> None:
    """Set the hand's target and the fingers' controls, in single precision like metaworld."""
    mocap_pos, mocap_quat = addresses[MOCAP_POS], addresses[MOCAP_QUAT]
    control = addresses[CONTROL]
    for axis in range(3):
        moved = read_double(mocap_pos + 8 * axis) + np.float64(action[axis] * np.float32(0.01))
        bounded = min(max(moved, numbers[LOWER_BOUND + axis]), numbers[UPPER_BOUND + axis])
        write_double(mocap_pos + 8 * axis, bounded)
    for axis in range(4):
        write_double(mocap_quat + 8 * axis, 1.0 - axis % 2)
    write_double(control, np.float64(action[3]))
    write_double(control + 8, np.float64(-action[3]))


def observe(addresses: Addresses, numbers: Row, action: Action, x: Row) -> None:
    """Write all of the row that is not a constant or sensed."""
    sense(addresses, x)
    for axis in range(4):
        x[ACTION + axis] = action[axis]
    observe_all(addresses, numbers, x)


@compiled
def sense(addresses: Addresses, x: Row) -> None:
    """Write what rewards look at of the robot itself."""
    right, left = addresses[RIGHT_TIP], addresses[LEFT_TIP]
    for axis in range(3):
        x[TCP + axis] = (read_double(right + 8 * axis) + read_double(left + 8 * axis)) / 2.0
        x[LEFT_PAD + axis] = read_double(addresses[LEFT_PAD_BODY] + 8 * axis)
        x[RIGHT_PAD + axis] = read_double(addresses[RIGHT_PAD_BODY] + 8 * axis)
    if addresses[MAIN_OBJECT] >= 0:
        left_force = press_force(addresses, addresses[LEFT_PAD_GEOM])
        right_force = press_force(addresses, addresses[RIGHT_PAD_GEOM])
        x[TOUCHING] = 1.0 if left_force > 0.0 and right_force > 0.0 else 0.0


@compiled
def press_force(addresses: Addresses, pad: int) -> float:
    """Return the force of a pad on the object as `SawyerXYZEnv.touching_object` sums it."""
    thing = addresses[MAIN_OBJECT]
    contact = read_address(addresses[CONTACTS])
    force = read_address(addresses[CONSTRAINT_FORCE])
    count = addresses[CONTACT_COUNT]
    constraints = read_int32(count + 16)  # `nefc` comes four counts after `ncon`
    total = 0.0
    for _ in range(read_int32(count)):
        geom1 = read_int32(contact + CONTACT_GEOM1)
        geom2 = read_int32(contact + CONTACT_GEOM2)
        if (geom1 == pad and geom2 == thing) or (geom1 == thing and geom2 == pad):
            index = read_int32(contact + CONTACT_FORCE_INDEX)
            if index < 0:
                index += constraints  # -1 is a contact without force; numpy reads the last one
            total += read_double(force + 8 * index)
        contact += CONTACT_BYTES
    return total


@compiled
def observe_all(addresses: Addresses, numbers: Row, x: Row) -> None:
    """Write the observation: this frame, the one before, and zeros for the goal.

    The fingers' distance is rounded as OpenBLAS does in `numpy.linalg.norm`: a scripted policy that
    sees a last bit differ may act otherwise, and grasp or miss.
    """
    for place in range(FRAME_SIZE):
        x[OBS + FRAME_SIZE + place] = x[FRAME + place]
    hand, right, left = addresses[HAND_BODY], addresses[RIGHT_CLAW], addresses[LEFT_CLAW]
    squared = 0.0
    for axis in range(3):
        x[HAND + axis] = read_double(hand + 8 * axis)
        apart = read_double(right + 8 * axis) - read_double(left + 8 * axis)
        squared = multiply_add(apart, apart, squared)
    x[OPENING] = min(max(math.sqrt(squared) / 0.1, 0.0), 1.0)
    for number in range(addresses[OBJECT_COUNT]):
        place = OBJECT + number * OBJECT_SIZE
        here, constants = OBJECTS + number * OBJECT_ADDRESSES, OBJECT_CONSTANTS
        constants += number * OBJECT_NUMBERS
        for axis in range(3):
            position = read_double(addresses[here] + 8 * axis)
            x[place + axis] = position + numbers[constants + axis]
        orientation, kind = addresses[here + 1], addresses[here + 2]
        if kind == QUATERNION_FROM_MATRIX:
            write_scipy_quaternion(orientation, x, place + 3)
        else:
            for axis in range(4):
                fixed = numbers[constants + 3 + axis]
                copied = kind == QUATERNION_COPIED
                x[place + 3 + axis] = read_double(orientation + 8 * axis) if copied else fixed
    if addresses[TASK_OBSERVE] != 0:
        call_with_1(addresses[TASK_OBSERVE], address_of(x))
    for place in range(FRAME_SIZE):
        x[FRAME + place] = x[OBS + place]
    for frame in (OBS, OBS + FRAME_SIZE):  # to `SawyerXYZEnv._HAND_SPACE`; the rest has no bounds
        x[frame] = min(max(x[frame], -0.525), 0.525)
        x[frame + 1] = min(max(x[frame + 1], 0.348), 1.025)
        x[frame + 2] = min(max(x[frame + 2], -0.0525), 0.7)


@compiled
def write_scipy_quaternion(matrix: int, x: Row, place: int) -> None:
    """Write what `scipy.spatial.transform.Rotation.from_matrix(...).as_quat()` gives, w last."""
    trace = read_double(matrix) + read_double(matrix + 32) + read_double(matrix + 64)
    largest, choice = trace, 3
    for axis in range(2, -1, -1):
        diagonal = read_double(matrix + 32 * axis)
        if diagonal >= largest:
            largest, choice = diagonal, axis
    if choice == 3:
        x[place] = read_double(matrix + 56) - read_double(matrix + 40)
        x[place + 1] = read_double(matrix + 16) - read_double(matrix + 48)
        x[place + 2] = read_double(matrix + 24) - read_double(matrix + 8)
        x[place + 3] = 1.0 + trace
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        x[place + i] = 1.0 - trace + 2.0 * read_double(matrix + 32 * i)
        x[place + j] = read_double(matrix + 24 * j + 8 * i) + read_double(matrix + 24 * i + 8 * j)
        x[place + k] = read_double(matrix + 24 * k + 8 * i) + read_double(matrix + 24 * i + 8 * k)
        x[place + 3] = read_double(matrix + 24 * k + 8 * j) - read_double(matrix + 24 * j + 8 * k)
    squared = 0.0
    for axis in range(4):
        squared += x[place + axis] * x[place + axis]
    norm = math.sqrt(squared)
    for axis in range(4):
        x[place + axis] /= norm
