"""peg-unplug-side-v3: pull a peg out of the side of a box."""

from envs.metaworld.native.row import (
    EFFORT,
    HAND_START,
    OBJECT,
    OBJECT_START,
    OPENING,
    TARGET,
    TCP,
    TaskRow,
)
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
from meta_rl.rollouts.mujoco.row import body_quaternion, site

task = TaskRow()
task.object(position=site("pegEnd"), quaternion=body_quaternion("plug1"))
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the peg, then its nearness to the goal."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = distance(x, OBJECT, TARGET)
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.025,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.005,
        desired_gripper_effort=0.8,
        density=HIGH_DENSITY,
    )
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    pulled = x[OPENING] > 0.5 and x[OBJECT] - x[OBJECT_START] > 0.015
    reward = 2.0 * object_grasped
    if pulled and tcp_to_obj < 0.035:
        reward = 1.0 + 2.0 * object_grasped + 5.0 * in_place
    if obj_to_target <= 0.05:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(pulled),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the peg from above, and from there its way to the goal."""
    reach_dist = distance(x, OBJECT, TCP)
    reach_dist_xy = distance_xy(x, OBJECT, TCP)
    placing_dist = distance_xy(x, OBJECT, TARGET)
    reach_reward = -reach_dist
    if reach_dist_xy >= 0.05:
        reach_reward = -reach_dist_xy - 2.0 * abs(x[TCP + 2] - x[HAND_START + 2])
    place_reward = 0.0
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0
        place_reward = 1000.0 * (x[MAX_PLACING_DIST] - placing_dist) + near_goal_bonus(placing_dist)
    reward = reach_reward + max(place_reward, 0.0)
    report(out, reward, indicator(placing_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, placing_dist)
