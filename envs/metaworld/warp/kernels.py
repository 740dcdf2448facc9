"""Warp's kernels of Meta-World: how all tasks act, sense touch and observe."""

from typing import Any, no_type_check

import warp as wp

from envs.metaworld.native import observation, sawyer
from envs.metaworld.native.row import ACTION, TOUCHING
from meta_rl.rollouts.warp.dialect import function, kernel, kernel_of_its_own

LOWER_BOUND, UPPER_BOUND = sawyer.LOWER_BOUND, sawyer.UPPER_BOUND


@kernel
@no_type_check
def act(
    numbers: wp.array[float],
    actions: wp.array2d[float],
    mocap_pos: wp.array2d[wp.vec3],
    mocap_quat: wp.array2d[wp.quat],
    ctrl: wp.array2d[float],
) -> None:
    """Set the hand's target and the fingers' controls."""
    world = wp.tid()
    target = mocap_pos[world, 0]
    for axis in range(3):
        moved = target[axis] + actions[world, axis] * 0.01
        target[axis] = wp.clamp(moved, numbers[LOWER_BOUND + axis], numbers[UPPER_BOUND + axis])
    mocap_pos[world, 0] = target
    mocap_quat[world, 0] = wp.quat(1.0, 0.0, 1.0, 0.0)
    ctrl[world, 0] = actions[world, 3]
    ctrl[world, 1] = -actions[world, 3]


@kernel
@no_type_check
def press(
    count: wp.array[int],
    geoms: wp.array[wp.vec2i],
    worldid: wp.array[int],
    efc_address: wp.array2d[int],
    force: wp.array2d[float],
    left_pad: int,
    right_pad: int,
    thing: int,
    presses: wp.array2d[float],
) -> None:
    """Sum the forces of each pad on the object, as `SawyerXYZEnv.touching_object` does."""
    contact = wp.tid()
    if contact >= count[0]:
        return
    pair = geoms[contact]
    other = -1
    if pair[0] == thing:
        other = pair[1]
    elif pair[1] == thing:
        other = pair[0]
    row = efc_address[contact, 0]
    if row < 0:
        return
    world = worldid[contact]
    if other == left_pad:
        wp.atomic_add(presses, world, 0, force[world, row])
    if other == right_pad:
        wp.atomic_add(presses, world, 1, force[world, row])


def observing(task: str, reward_name: str) -> Any:
    """Return a kernel that writes the row and the outputs of a task's worlds.

    Args:
        task: The module of the task.
        reward_name: Its reward function.
    """
    observe_parts = function(observation.__name__, "observe_parts")
    finish_frame = function(observation.__name__, "finish_frame")
    reward = function(task, reward_name)
    try:
        observe_task = function(task, "observe")
    except AttributeError:
        observe_task = nothing

    @kernel_of_its_own
    @no_type_check
    def observe(
        which: wp.array[wp.bool],
        plan: wp.array[int],
        numbers: wp.array[float],
        presses: wp.array2d[float],
        actions: wp.array2d[float],
        rows: wp.array2d[float],
        outputs: wp.array2d[float],
    ) -> None:
        world = wp.tid()
        if not which[world]:
            return
        x = rows[world]
        for axis in range(4):
            x[ACTION + axis] = actions[world, axis]
        x[TOUCHING] = wp.where(presses[world, 0] > 0.0 and presses[world, 1] > 0.0, 1.0, 0.0)
        observe_parts(plan, numbers, x)
        observe_task(x)
        finish_frame(x)
        reward(x, outputs[world])

    return observe


@wp.func
@no_type_check
def nothing(x: wp.array[float]) -> None:
    """Observe nothing more: what most tasks do."""
