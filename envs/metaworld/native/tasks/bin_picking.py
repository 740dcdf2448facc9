"""bin-picking-v3: bring a cube from one bin to another."""

import math

from envs.metaworld.native.row import (
    EFFORT,
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
    HIGH_DENSITY,
    caging,
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("obj"), quaternion=body_quaternion("obj"))
FIRST_TARGET_TO_OBJECT = task.memory("_target_to_obj_init")
"""The cube's distance to the goal after the first step."""
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


@compiled
def funnel(radius: float) -> float:
    """Return the height of a funnel's wall at a distance from its middle."""
    if radius > 0.03:
        return 0.02 * math.log(radius - 0.03) + 0.2
    return 0.0


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the cube, then its nearness to the goal while the hand avoids the bins."""
    target_to_obj = distance(x, OBJECT, TARGET)
    if math.isnan(x[FIRST_TARGET_TO_OBJECT]):
        x[FIRST_TARGET_TO_OBJECT] = target_to_obj
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.05, x[FIRST_TARGET_TO_OBJECT])
    # the floor has a funnel at the start and one at the goal: no running into the bins' edges
    floor = min(funnel(distance_xy(x, HAND, OBJECT_START)), funnel(distance_xy(x, HAND, TARGET)))
    above_floor = 1.0
    if x[HAND + 2] < floor:
        above_floor = tolerance_long_tail(floor - x[HAND + 2], 0.0, 0.01, 0.05)
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.015,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=0.7,
        density=HIGH_DENSITY,
    )
    near = distance(x, OBJECT, HAND) < 0.04
    lifted = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    held = near and lifted and x[OPENING] >= 0.43
    reward = hamacher_product(object_grasped, in_place)
    if held:
        reward = reward + 1.0 + 5.0 * hamacher_product(above_floor, in_place)
    if target_to_obj < 0.05:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(target_to_obj <= 0.05),
        near_object=indicator(near),
        grasp_success=indicator(held),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the cube, lifting it, its way over the bin, and letting go there."""
    reach_dist = distance(x, OBJECT, TCP)
    placing_dist = distance_xy(x, OBJECT, TARGET)
    reach_dist_xy = distance_xy(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist_xy >= 0.06:
        reach_reward = -reach_dist_xy - abs(x[TCP + 2] - x[TCP_START + 2])
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    on_ground = height < x[OBJECT_HEIGHT] + 0.005
    dropped = on_ground and placing_dist > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and not dropped
    over_bin = abs(x[OBJECT] - x[TARGET]) < 0.05 and abs(x[OBJECT + 1] - x[TARGET + 1]) < 0.05
    placed = over_bin and height < x[OBJECT_HEIGHT] + 0.05
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.1 and height > x[OBJECT_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    place_reward = 1000.0 * (x[MAX_PLACING_DIST] - placing_dist) + near_goal_bonus(placing_dist)
    place_reward = max(place_reward, 0.0)
    if over_bin:
        place_reward = place_reward - 200.0 * x[EFFORT]
    reward = reach_reward + pick_reward
    if placed:
        reward = place_reward
    elif picked and reach_dist < 0.1:
        reward = reward + place_reward
    report(out, reward, indicator(placing_dist <= 0.05), 0.0, 0.0, 0.0, 0.0, placing_dist)
