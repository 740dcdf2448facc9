"""door-lock-v3: lock a door by turning its lock down."""

from envs.metaworld.native.row import LEFT_PAD, OBJECT, OPENING, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    scaled_distance,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body_quaternion, site

task = TaskRow()
task.object(position=site("lockStartLock"), quaternion=body_quaternion("door_link"))
LEFT_PAD_START = task.constant("init_left_pad", 3)
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward the left pad of an open gripper at the lock, and the lock's nearness to the goal."""
    tcp_to_obj = scaled_distance(x, OBJECT, LEFT_PAD, 0.25, 1.0, 0.5)
    tcp_to_obj_start = scaled_distance(x, OBJECT, LEFT_PAD_START, 0.25, 1.0, 0.5)
    obj_to_target = abs(x[TARGET + 2] - x[OBJECT + 2])
    near_lock = tolerance_long_tail(tcp_to_obj, 0.0, 0.01, tcp_to_obj_start)
    lock_pressed = tolerance_long_tail(obj_to_target, 0.0, 0.005, 0.1)
    report(
        out,
        2.0 * hamacher_product(x[OPENING], near_lock) + 8.0 * lock_pressed,
        success=indicator(obj_to_target <= 0.02),
        near_object=indicator(tcp_to_obj <= 0.05),
        grasp_success=indicator(x[OPENING] > 0.0),
        grasp_reward=near_lock,
        in_place_reward=lock_pressed,
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
