"""coffee-push-v3: push a mug under the coffee machine."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    MEDIUM_DENSITY,
    caging,
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    scaled_distance,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, geom_rotation

task = TaskRow()
task.object(position=body("obj"), quaternion=geom_rotation("mug"))
task.touching()
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the mug, then its nearness to the goal, which counts more along the table."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    target_to_obj = scaled_distance(x, OBJECT, TARGET, 2.0, 2.0, 1.0)
    in_place_margin = scaled_distance(x, OBJECT_START, TARGET, 2.0, 2.0, 1.0)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.05, in_place_margin)
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.02,
        pad_success_thresh=0.05,
        object_reach_radius=0.04,
        xz_thresh=0.05,
        desired_gripper_effort=0.7,
        density=MEDIUM_DENSITY,
    )
    reward = hamacher_product(object_grasped, in_place)
    if tcp_to_obj < 0.04 and x[OPENING] > 0.0:
        reward = reward + 1.0 + 5.0 * in_place
    if target_to_obj < 0.05:
        reward = 10.0
    obj_to_target = distance(x, OBJECT, TARGET)
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the mug, and from there its way to the goal."""
    reach_dist = distance(x, TCP, OBJECT)
    push_dist = distance_xy(x, OBJECT, TARGET)
    push_reward = 0.0
    if reach_dist < 0.05:
        push_reward = 1000.0 * (x[MAX_PUSH_DIST] - push_dist) + near_goal_bonus(push_dist)
    reward = -reach_dist + max(push_reward, 0.0)
    obj_to_target = distance(x, OBJECT, TARGET)
    report(out, reward, indicator(obj_to_target <= 0.07), 1.0, 0.0, 0.0, 0.0, obj_to_target)
