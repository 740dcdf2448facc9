"""pick-place-wall-v3: bring a puck over a wall to a goal."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    PLAIN,
    caging,
    distance,
    hamacher_product,
    indicator,
    length,
    pick_and_place_v1,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom, geom_rotation

task = TaskRow()
task.object(position=geom("objGeom"), quaternion=geom_rotation("objGeom"))
task.touching()
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the puck, then its way to a point over the wall, behind it to the goal."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    # the point over the wall is straight before the goal; height counts three times
    to_midpoint = length(x[OBJECT] - x[TARGET], x[OBJECT + 1] - 0.77, 3.0 * (x[OBJECT + 2] - 0.25))
    to_midpoint_start = length(
        x[OBJECT_START] - x[TARGET], x[OBJECT_START + 1] - 0.77, 3.0 * (x[OBJECT_START + 2] - 0.25)
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
        density=PLAIN,
    )
    reward = hamacher_product(object_grasped, at_midpoint)
    height = x[OBJECT + 2]
    if tcp_to_obj < 0.02 and x[OPENING] > 0.0 and height - 0.015 > x[OBJECT_START + 2]:
        if x[OBJECT + 1] > 0.75:
            reward = reward + 1.0 + 4.0 + 3.0 * in_place
        else:
            reward = reward + 1.0 + 4.0 * at_midpoint
    if obj_to_target < 0.05:
        reward = 10.0
    lifted = height - 0.02 > x[OBJECT_START + 2]
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
    """Reward reaching the puck, lifting it, and its way to the goal."""
    placing_dist = distance(x, OBJECT, TARGET)
    reward = pick_and_place_v1(
        x, x[OBJECT_HEIGHT], x[HEIGHT_TARGET], x[MAX_PLACING_DIST], floor=0.0
    )
    report(out, reward, indicator(placing_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, placing_dist)
