"""Warp's kernels of locomotion: how all robots act, observe and begin an episode."""

from typing import Any, no_type_check

import warp as wp

from envs.locomotion.native import observation, rewards
from meta_rl.rollouts.warp.dialect import function, kernel, kernel_of_its_own

CONTROLS, PIECE_COUNT = observation.CONTROLS, observation.PIECE_COUNT
PIECE_BOUNDS = observation.PIECE_BOUNDS


@kernel
@no_type_check
def act(
    plan: wp.array[int],
    numbers: wp.array[float],
    actions: wp.array2d[float],
    ctrl: wp.array2d[float],
) -> None:
    """Set the controls: the action as fractions of their bounds."""
    world, number = wp.tid()
    bounds = PIECE_BOUNDS + plan[PIECE_COUNT]
    ctrl[world, number] = actions[world, number] * numbers[bounds + number]


@kernel
@no_type_check
def draw_starts(
    which: wp.array[wp.bool],
    scale: float,
    normal: wp.bool,
    chance: wp.array2d[int],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
) -> None:
    """Draw positions and speeds around the initial ones, as Gymnasium's `reset_model`."""
    world = wp.tid()
    if not which[world]:
        return
    state = wp.rand_init(chance[world, 0], chance[world, 1])
    chance[world, 1] = chance[world, 1] + 1
    for number in range(qpos.shape[1]):
        qpos[world, number] = qpos[world, number] + wp.randf(state, -scale, scale)
    for number in range(qvel.shape[1]):
        drawn = wp.randf(state, -scale, scale)
        if normal:
            drawn = scale * wp.randn(state)
        qvel[world, number] = qvel[world, number] + drawn


def observing(name: str) -> Any:
    """Return a kernel that writes the rows and outputs of a task's worlds.

    Args:
        name: The name of the task, and of its reward.
    """
    observe_robot = function(observation.__name__, "observe_robot")
    reward = function(rewards.__name__, name)

    @kernel_of_its_own
    @no_type_check
    def observe(
        which: wp.array[wp.bool],
        plan: wp.array[int],
        numbers: wp.array[float],
        rows: wp.array2d[float],
        outputs: wp.array2d[float],
    ) -> None:
        world = wp.tid()
        if which[world]:
            x = rows[world]
            observe_robot(plan, numbers, x)
            reward(x, outputs[world])

    return observe
