"""drawer-open-v3: pull a drawer open."""

from envs.metaworld.native.row import HAND, OBJECT, OPENING, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    indicator,
    length,
    near_goal_bonus,
    report,
    scaled_distance,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(
    position=body("drawer_link"),
    offset=(0.0, -0.16, 0.0),
    quaternion=body_quaternion("drawer_link"),
)
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward the hand at the handle, first of all above it, and the handle's nearness to open."""
    handle_error = distance(x, OBJECT, TARGET)
    opening = tolerance_long_tail(handle_error, 0.0, 0.02, x[MAX_DIST])
    # the horizontal distance counts more, so that the hand drops onto the handle from above
    gripper_error = scaled_distance(x, OBJECT, HAND, 3.0, 3.0, 1.0)
    gripper_error_start = length(
        (x[TARGET] - x[TCP_START]) * 3.0,
        (x[TARGET + 1] + x[MAX_DIST] - x[TCP_START + 1]) * 3.0,
        x[TARGET + 2] - x[TCP_START + 2],
    )
    caged = tolerance_long_tail(gripper_error, 0.0, 0.01, gripper_error_start)
    report(
        out,
        5.0 * (caged + opening),
        success=indicator(handle_error <= 0.03),
        near_object=indicator(distance(x, OBJECT, HAND) <= 0.03),
        grasp_success=indicator(x[OPENING] > 0.0),
        grasp_reward=caged,
        in_place_reward=opening,
        obj_to_target=handle_error,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there the drawer's way."""
    reach_dist = distance(x, OBJECT, TCP)
    pull_dist = abs(x[OBJECT + 1] - x[TARGET + 1])
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.03)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 0.0, 0.0, 0.0, pull_dist)
