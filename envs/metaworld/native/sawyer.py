"""How Meta-World's robot acts and senses in MuJoCo's C library, as `SawyerXYZEnv.step` does."""

from functools import cache
from typing import Any

import mujoco
import numpy as np

from envs.metaworld.native.observation import (
    NUMBERS_SIZE,
    PLAN_SIZE,
    finish_frame,
    observe_parts,
    plan_of,
)
from envs.metaworld.native.row import ACTION, TOUCHING, TaskRow
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
    read_address,
    read_double,
    read_int32,
    write_double,
)
from meta_rl.rollouts.mujoco.memory import offsets
from meta_rl.rollouts.mujoco.scene import Binding, Scene, field_address

# Places in the addresses of a binding, which begin with the task's plan ...
MOCAP_POS, MOCAP_QUAT, CONTROL = PLAN_SIZE, PLAN_SIZE + 1, PLAN_SIZE + 2
CONTACTS, CONTACT_COUNT, CONSTRAINT_FORCE = PLAN_SIZE + 3, PLAN_SIZE + 4, PLAN_SIZE + 5
LEFT_PAD_GEOM, RIGHT_PAD_GEOM = PLAN_SIZE + 6, PLAN_SIZE + 7  # numbers of geoms
MAIN_OBJECT = PLAN_SIZE + 8  # its geom; -1 if touch is not sensed
TASK_OBSERVE = PLAN_SIZE + 9
GEOM1, GEOM2 = PLAN_SIZE + 10, PLAN_SIZE + 11  # where contacts have them
FORCE_INDEX, CONTACT_BYTES = PLAN_SIZE + 12, PLAN_SIZE + 13
# ... and in its numbers, which begin with the task's: the bounds of the hand's target.
LOWER_BOUND, UPPER_BOUND = NUMBERS_SIZE, NUMBERS_SIZE + 3


@cache
def functions() -> tuple[Any, Any]:
    """Return compiled `act` and `observe`, which all classes share."""
    return callback(act, ACT), callback(observe, OBSERVE)


def touching_geoms(scene: Scene, task: TaskRow) -> tuple[int, int, int]:
    """Return the geoms of the left pad, the right pad and the main object; -1 if not sensed."""
    if not task.senses_touch:
        return -1, -1, -1
    left, right = (int(scene.model.geom(name).id) for name in ("leftpad_geom", "rightpad_geom"))
    return left, right, int(scene.env._get_id_main_object())


def bind(scene: Scene, data: mujoco.MjData, task: TaskRow, task_observe: int) -> Binding:
    """Return what `act` and `observe` index.

    Args:
        task_observe: The address of the task's own compiled `observe`, or 0.
    """
    plan, numbers = plan_of(task)
    contact = offsets().contact
    addresses = [
        *plan,
        *(field_address(data, field) for field in ("mocap_pos", "mocap_quat", "ctrl")),
        data._address + offsets().contacts,
        data._address + offsets().contact_count,
        data._address + offsets().constraint_force,
        *touching_geoms(scene, task),
        task_observe,
        *(contact.geom1, contact.geom2, contact.force_index, contact.size),
    ]
    bounds = [*scene.env.mocap_low, *scene.env.mocap_high]
    return Binding(np.array(addresses, dtype=np.int64), np.concatenate([numbers, bounds]))


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
    for axis in range(4):
        x[ACTION + axis] = action[axis]
    if addresses[MAIN_OBJECT] >= 0:
        left_force = press_force(addresses, addresses[LEFT_PAD_GEOM])
        right_force = press_force(addresses, addresses[RIGHT_PAD_GEOM])
        x[TOUCHING] = 1.0 if left_force > 0.0 and right_force > 0.0 else 0.0
    observe_parts(addresses, numbers, x)
    if addresses[TASK_OBSERVE] != 0:
        call_with_1(addresses[TASK_OBSERVE], address_of(x))
    finish_frame(x)


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
        geom1 = read_int32(contact + addresses[GEOM1])
        geom2 = read_int32(contact + addresses[GEOM2])
        if (geom1 == pad and geom2 == thing) or (geom1 == thing and geom2 == pad):
            index = read_int32(contact + addresses[FORCE_INDEX])
            if index < 0:
                index += constraints  # -1 is a contact without force; numpy reads the last one
            total += read_double(force + 8 * index)
        contact += addresses[CONTACT_BYTES]
    return total
