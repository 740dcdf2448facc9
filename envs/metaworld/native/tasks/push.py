"""push-v3: push a puck to a goal."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    distance_xy,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, geom_rotation

task = TaskRow()
task.object(position=body("obj"), quaternion=geom_rotation("objGeom"))
task.touching()
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the puck, then its nearness to the goal."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    target_to_obj = distance(x, OBJECT, TARGET)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.015,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.005,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    reward = 2.0 * object_grasped
    if tcp_to_obj < 0.02 and x[OPENING] > 0.0:
        reward = reward + 1.0 + reward + 5.0 * in_place
    if target_to_obj < 0.05:
        reward = 10.0
    lifted = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(target_to_obj <= 0.05),
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
    report(out, reward, indicator(push_dist <= 0.05), 1.0, 0.0, 0.0, 0.0, push_dist)
