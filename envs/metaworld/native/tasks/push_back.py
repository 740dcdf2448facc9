"""push-back-v3: pull a puck back to a goal nearer to the robot."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    near_goal_bonus,
    pinching,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom, geom_rotation

task = TaskRow()
task.object(position=geom("objGeom"), quaternion=geom_rotation("objGeom"))
task.touching()
LEFT_PAD_START = task.constant("init_left_pad", 3)
RIGHT_PAD_START = task.constant("init_right_pad", 3)
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward pinching the puck, then its nearness to the goal once it has moved towards it."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    target_to_obj = distance(x, OBJECT, TARGET)
    target_to_obj_start = distance(x, OBJECT_START, TARGET)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.05, target_to_obj_start)
    object_grasped = pinching(
        x,
        LEFT_PAD_START,
        RIGHT_PAD_START,
        obj_radius=0.007,
        grip_success_thresh=0.007 + 0.003,
        xz_thresh=0.01,
    )
    reward = hamacher_product(object_grasped, in_place)
    pinched = tcp_to_obj < 0.01 and x[OPENING] > 0.0 and x[OPENING] < 0.55
    if pinched and target_to_obj_start - target_to_obj > 0.01:
        reward = reward + 1.0 + 5.0 * in_place
    if target_to_obj < 0.05:
        reward = 10.0
    lifted = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(target_to_obj <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0 and lifted),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the puck, and from there its way to the goal."""
    reach_dist = distance(x, TCP, OBJECT)
    push_dist = distance_xy(x, OBJECT, TARGET)
    push_reward = 0.0
    if reach_dist < 0.05:
        push_reward = 1000.0 * (x[MAX_PUSH_DIST] - push_dist) + near_goal_bonus(push_dist)
    reward = -reach_dist + max(push_reward, 0.0)
    report(out, reward, indicator(push_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, push_dist)
