"""handle-press-v3: press a handle down."""

from envs.metaworld.native.row import OBJECT, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import site

task = TaskRow()
task.object(position=site("handleStart"), quaternion=(0.0, 0.0, 0.0, 0.0))
LEFT_FINGER = task.site("leftEndEffector")
HANDLE_START = task.constant("_handle_init_pos", 3)
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward reaching the handle together with its nearness to the goal's height."""
    target_to_obj = abs(x[OBJECT + 2] - x[TARGET + 2])
    margin = abs(abs(x[HANDLE_START + 2] - x[TARGET + 2]) - 0.02)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.02, margin)
    tcp_to_obj = distance(x, OBJECT, TCP)
    margin = abs(distance(x, HANDLE_START, TCP_START) - 0.02)
    reach = tolerance_long_tail(tcp_to_obj, 0.0, 0.02, margin)
    success = indicator(target_to_obj <= 0.02)
    reward = 10.0 * hamacher_product(reach, in_place)
    if success > 0.0:
        reward = 10.0
    near = indicator(tcp_to_obj <= 0.05)
    report(out, reward, success, near, 1.0, reach, in_place, target_to_obj)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle with the left finger, and from there its way down."""
    press_dist = abs(x[OBJECT + 2] - x[TARGET + 2])
    reach_dist = distance(x, OBJECT, LEFT_FINGER)
    press_reward = 0.0
    if reach_dist < 0.05:
        press_reward = 1000.0 * (x[MAX_DIST] - press_dist) + near_goal_bonus(press_dist)
    success = indicator(press_dist <= 0.02)
    report(out, max(press_reward, 0.0) - reach_dist, success, 1.0, 1.0, 0.0, 0.0, press_dist)
