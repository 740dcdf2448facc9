"""door-close-v3: push a door shut."""

from envs.metaworld.native.row import HAND_START, OBJECT, OBJECT_START, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    distance_xy,
    indicator,
    near_goal_bonus,
    report,
    tolerance_gaussian,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom, geom_rotation

task = TaskRow()
task.object(position=geom("handle"), quaternion=geom_rotation("handle"))
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward the nearness of handle and hand to where the handle of a shut door is."""
    obj_to_target = distance(x, OBJECT, TARGET)
    in_place = tolerance_gaussian(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    # the margin moves with the handle, since metaworld takes where it is and not where it began
    hand_margin = distance(x, HAND_START, OBJECT) + 0.1
    hand_in_place = tolerance_gaussian(distance(x, TCP, TARGET), 0.0, 0.25 * 0.05, hand_margin)
    reward = 3.0 * hand_in_place + 6.0 * in_place
    if obj_to_target < 0.05:
        reward = 10.0
    success = indicator(obj_to_target <= 0.08)
    report(out, reward, success, 0.0, 1.0, 1.0, hand_in_place, obj_to_target)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there its way to the goal."""
    pull_dist = distance_xy(x, OBJECT, TARGET)
    reach_dist = distance(x, OBJECT, TCP)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.08)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 0.0, 1.0, 1.0, 0.0, pull_dist)
