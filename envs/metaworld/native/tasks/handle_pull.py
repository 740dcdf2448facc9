"""handle-pull-v3: pull a handle up."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import site

task = TaskRow()
task.object(position=site("handleRight"), quaternion=(0.0, 0.0, 0.0, 0.0))
LEFT_FINGER = task.site("leftEndEffector")
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the handle, then its nearness to the goal's height."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    target_to_obj = abs(x[TARGET + 2] - x[OBJECT + 2])
    in_place = tolerance_long_tail(
        target_to_obj, 0.0, 0.05, abs(x[TARGET + 2] - x[OBJECT_START + 2])
    )
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.022,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    reward = hamacher_product(object_grasped, in_place)
    # metaworld compares the handle's y with the start's z, which holds nearly always
    raised = x[OBJECT + 1] - 0.01 > x[OBJECT_START + 2]
    if tcp_to_obj < 0.035 and x[OPENING] > 0.0 and raised:
        reward = reward + 1.0 + 5.0 * in_place
    if target_to_obj < 0.05:
        reward = 10.0
    lifted = x[OBJECT + 2] - 0.03 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(target_to_obj <= 0.05),
        near_object=indicator(tcp_to_obj <= 0.05),
        grasp_success=indicator(x[OPENING] > 0.0 and lifted),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle with the left finger, and from there its way up."""
    pull_dist = abs(x[OBJECT + 2] - x[TARGET + 2])
    reach_dist = distance(x, OBJECT, LEFT_FINGER)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(pull_dist <= 0.05)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 0.0, 0.0, 0.0, pull_dist)
