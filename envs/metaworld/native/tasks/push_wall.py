"""push-wall-v3: push a puck around a wall to a goal."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    distance_xy,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom, geom_rotation

task = TaskRow()
task.object(position=geom("objGeom"), quaternion=geom_rotation("objGeom"))
task.touching()
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the puck, then its way to a point beside the wall, behind it to the goal."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    # the point beside the wall is at the puck's height; sideways counts three times
    to_midpoint = length(3.0 * (x[OBJECT] + 0.05), x[OBJECT + 1] - 0.77, 0.0)
    to_midpoint_start = length(
        3.0 * (x[OBJECT_START] + 0.05),
        x[OBJECT_START + 1] - 0.77,
        x[OBJECT_START + 2] - x[OBJECT + 2],
    )
    at_midpoint = tolerance_long_tail(to_midpoint, 0.0, 0.05, to_midpoint_start)
    obj_to_target = distance(x, OBJECT, TARGET)
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
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
        if x[OBJECT + 1] > 0.75:
            reward = reward + 1.0 + 4.0 + 3.0 * in_place
        else:
            reward = reward + 1.0 + 4.0 * at_midpoint
    if obj_to_target < 0.05:
        reward = 10.0
    lifted = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0 and lifted),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
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
