"""plate-slide-v3: slide a plate into a cabinet."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom, geom_rotation

task = TaskRow()
task.object(position=geom("puck"), quaternion=geom_rotation("puck"))
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward a hand at the plate together with the plate's nearness to the goal."""
    obj_to_target = distance(x, OBJECT, TARGET)
    tcp_to_obj = distance(x, TCP, OBJECT)
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    reach = tolerance_long_tail(tcp_to_obj, 0.0, 0.05, distance(x, TCP_START, OBJECT_START))
    reward = 8.0 * hamacher_product(reach, in_place)
    if obj_to_target < 0.05:
        reward = 10.0
    success = indicator(obj_to_target <= 0.07)
    near = indicator(tcp_to_obj <= 0.03)
    report(out, reward, success, near, 0.0, reach, in_place, obj_to_target)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the plate, and from there its way to the goal."""
    reach_dist = distance(x, OBJECT, TCP)
    pull_dist = distance_xy(x, OBJECT, TARGET)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.07)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 0.0, 0.0, 0.0, pull_dist)
