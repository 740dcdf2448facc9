"""window-close-v3: push a sliding window shut."""

from envs.metaworld.native.row import OBJECT, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_gaussian,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import site

task = TaskRow()
task.object(position=site("handleCloseStart"), quaternion=(0.0, 0.0, 0.0, 0.0))
HANDLE = task.site("handleCloseStart")
HANDLE_START = task.constant("window_handle_pos_init", 3)
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward a hand at the handle together with the window's nearness to shut."""
    target_to_obj = abs(x[HANDLE] - x[TARGET])
    margin = abs(abs(x[HANDLE_START] - x[TARGET]) - 0.05)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.05, margin)
    tcp_to_obj = distance(x, HANDLE, TCP)
    margin = abs(distance(x, HANDLE_START, TCP_START) - 0.02)
    reach = tolerance_gaussian(tcp_to_obj, 0.0, 0.02, margin)
    reward = 10.0 * hamacher_product(reach, in_place)
    success = indicator(target_to_obj <= 0.05)
    near = indicator(tcp_to_obj <= 0.05)
    report(out, reward, success, near, 1.0, reach, in_place, target_to_obj)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there the window's way."""
    pull_dist = abs(x[OBJECT] - x[TARGET])
    reach_dist = distance(x, OBJECT, TCP)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.05)
    report(out, pull_reward - reach_dist, success, 1.0, 1.0, 0.0, 0.0, pull_dist)
