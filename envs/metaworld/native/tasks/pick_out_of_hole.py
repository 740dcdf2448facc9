"""pick-out-of-hole-v3: take a puck out of a hole and bring it to a goal above the table."""

import math

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    pick_and_place_v1,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("obj"), quaternion=body_quaternion("obj"))
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the puck, then its nearness to the goal, with the gripper off the edge."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = distance(x, OBJECT, TARGET)
    # the floor is a funnel around the hole, which keeps the gripper from running into its edge
    radius = distance_xy(x, TCP, OBJECT_START)
    floor = 0.0
    if radius > 0.03:
        floor = 0.015 * math.log(radius - 0.03) + 0.15
    above_floor = 1.0
    if x[TCP + 2] < floor:
        above_floor = tolerance_long_tail(floor - x[TCP + 2], 0.0, 0.01, 0.02)
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.015,
        pad_success_thresh=0.02,
        object_reach_radius=0.01,
        xz_thresh=0.03,
        desired_gripper_effort=0.1,
        density=HIGH_DENSITY,
    )
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.02, distance(x, OBJECT_START, TARGET))
    reward = hamacher_product(object_grasped, in_place)
    lifted = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    held = tcp_to_obj < 0.04 and lifted and x[OPENING] >= 0.33
    if held:
        reward = reward + 1.0 + 5.0 * hamacher_product(in_place, above_floor)
    if obj_to_target < 0.05:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(held),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the puck, lifting it, and its way to the goal."""
    placing_dist = distance(x, OBJECT, TARGET)
    reward = pick_and_place_v1(
        x,
        x[OBJECT_HEIGHT],
        x[HEIGHT_TARGET],
        x[MAX_PLACING_DIST],
        floor=x[OBJECT_HEIGHT] - 0.02,
    )
    report(out, reward, indicator(placing_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, placing_dist)
