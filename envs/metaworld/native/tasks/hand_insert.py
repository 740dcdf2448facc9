"""hand-insert-v3: put a block, and the hand with it, into a hole in the table."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
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
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("obj"), quaternion=body_quaternion("obj"))
task.touching()
MAX_REACH_DIST = task.constant("maxReachDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the block, then its nearness to the goal."""
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
    reward = hamacher_product(object_grasped, in_place)
    if tcp_to_obj < 0.02 and x[OPENING] > 0.0:
        reward = reward + 1.0 + 7.0 * in_place
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
    """Reward the hand above the goal, and from there its way down; the block does not matter."""
    reach_dist = distance_xy(x, TCP, TARGET)
    depth = abs(x[TCP + 2] - x[TARGET + 2])
    near_reward = 0.0
    if reach_dist < 0.05:
        near_reward = 1000.0 * (x[MAX_REACH_DIST] - depth) + near_goal_bonus(depth)
    reward = -reach_dist + max(near_reward, 0.0)
    # metaworld measures where the block began, so that nothing the hand does is a success
    start_to_target = distance(x, OBJECT_START, TARGET)
    report(out, reward, indicator(start_to_target <= 0.05), 1.0, 0.0, 0.0, 0.0, start_to_target)
