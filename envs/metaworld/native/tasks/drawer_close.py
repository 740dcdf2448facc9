"""drawer-close-v3: push a drawer shut."""

from envs.metaworld.native.row import EFFORT, OBJECT, OBJECT_START, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    clip,
    distance,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_gaussian,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body

task = TaskRow()
task.object(
    position=body("drawer_link"), offset=(0.0, -0.16, 0.05), quaternion=(0.0, 0.0, 0.0, 0.0)
)
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward a closed gripper at the handle together with the drawer's nearness to shut."""
    target_to_obj = distance(x, OBJECT, TARGET)
    margin = abs(distance(x, OBJECT_START, TARGET) - 0.05)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.05, margin)
    tcp_to_obj = distance(x, OBJECT, TCP)
    margin = abs(distance(x, OBJECT_START, TCP_START) - 0.005)
    reach = tolerance_gaussian(tcp_to_obj, 0.0, 0.005, margin)
    reach = hamacher_product(reach, clip(x[EFFORT], 0.0, 1.0))
    success = indicator(target_to_obj <= 0.05 + 0.015)
    reward = 10.0 * hamacher_product(reach, in_place)
    if success > 0.0:
        reward = 10.0
    near = indicator(tcp_to_obj <= 0.01)
    report(out, reward, success, near, 1.0, reach, in_place, target_to_obj)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there the drawer's way."""
    reach_dist = distance(x, OBJECT, TCP)
    pull_dist = abs(x[OBJECT + 1] - x[TARGET + 1])
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.05 + 0.015)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 1.0, 0.0, 0.0, pull_dist)
