"""door-unlock-v3: unlock a door by pushing its lock aside."""

from envs.metaworld.native.row import (
    HAND,
    OBJECT,
    OBJECT_START,
    OPENING,
    TARGET,
    TCP,
    TCP_START,
    TaskRow,
)
from envs.metaworld.native.shaping import (
    distance,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body_quaternion, site

task = TaskRow()
task.object(position=site("lockStartUnlock"), quaternion=body_quaternion("door_link"))
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward the gripper's shoulder at the lock, and the lock's nearness to the goal."""
    # the shoulder is 5.5 cm behind and 7 cm above the fingers
    shoulder_to_lock = length(
        (x[HAND] - x[OBJECT]) * 0.25,
        x[HAND + 1] + 0.055 - x[OBJECT + 1],
        (x[HAND + 2] + 0.07 - x[OBJECT + 2]) * 0.5,
    )
    shoulder_to_lock_start = length(
        (x[TCP_START] - x[OBJECT_START]) * 0.25,
        x[TCP_START + 1] + 0.055 - x[OBJECT_START + 1],
        (x[TCP_START + 2] + 0.07 - x[OBJECT_START + 2]) * 0.5,
    )
    ready_to_push = tolerance_long_tail(shoulder_to_lock, 0.0, 0.02, shoulder_to_lock_start)
    obj_to_target = abs(x[TARGET] - x[OBJECT])
    pushed = tolerance_long_tail(obj_to_target, 0.0, 0.005, 0.1)
    report(
        out,
        2.0 * ready_to_push + 8.0 * pushed,
        success=indicator(obj_to_target <= 0.02),
        near_object=indicator(shoulder_to_lock <= 0.05),
        grasp_success=indicator(x[OPENING] > 0.0),
        grasp_reward=ready_to_push,
        in_place_reward=pushed,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the lock, and from there its way to the goal."""
    pull_dist = distance(x, OBJECT, TARGET)
    reach_dist = distance(x, OBJECT, TCP)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.02)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 0.0, 0.0, 0.0, pull_dist)
