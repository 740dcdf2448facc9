"""faucet-open-v3: turn a faucet's handle on, towards positive x."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    distance_to,
    indicator,
    near_goal_bonus,
    report,
    tolerance_gaussian,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body_quaternion, site

task = TaskRow()
task.object(
    position=site("handleStartOpen"),
    offset=(0.0, 0.0, -0.01),
    quaternion=body_quaternion("faucetBase"),
)
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward nearness to the handle, and the handle's nearness to the goal."""
    # what the hand should push is beside the observed point, on the side away from the goal
    handle_x = x[OBJECT] - 0.04
    handle_y = x[OBJECT + 1]
    handle_z = x[OBJECT + 2] + 0.03
    target_to_obj = distance_to(x, TARGET, handle_x, handle_y, handle_z)
    margin = abs(distance(x, OBJECT_START, TARGET) - 0.07)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.07, margin)
    tcp_to_obj = distance_to(x, TCP, handle_x, handle_y, handle_z)
    margin = abs(distance(x, OBJECT_START, TCP_START) - 0.01)
    reach = tolerance_gaussian(tcp_to_obj, 0.0, 0.01, margin)
    success = indicator(target_to_obj <= 0.07)
    reward = 2.0 * (2.0 * reach + 3.0 * in_place)
    if success > 0.0:
        reward = 10.0
    near = indicator(tcp_to_obj <= 0.01)
    report(out, reward, success, near, 1.0, reach, in_place, target_to_obj)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there its way to the goal."""
    pull_dist = distance(x, OBJECT, TARGET)
    reach_dist = distance(x, OBJECT, TCP)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.07)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 1.0, 0.0, 0.0, pull_dist)
