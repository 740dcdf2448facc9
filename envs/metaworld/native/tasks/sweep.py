"""sweep-v3: sweep a cube off the table."""

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
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("obj"), quaternion=body_quaternion("obj"))
task.touching()
LEFT_PAD_START = task.constant("init_left_pad", 3)
RIGHT_PAD_START = task.constant("init_right_pad", 3)
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the cube, also together with its nearness to the goal."""
    obj_to_target = distance(x, OBJECT, TARGET)
    tcp_to_obj = distance(x, OBJECT, TCP)
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    object_grasped = pinching(
        x,
        LEFT_PAD_START,
        RIGHT_PAD_START,
        obj_radius=0.02,
        grip_success_thresh=0.02 + 0.01,
        xz_thresh=0.005,
    )
    reward = 2.0 * object_grasped + 6.0 * hamacher_product(object_grasped, in_place)
    if obj_to_target < 0.05:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.05),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the cube, and from there its way to the goal."""
    reach_dist = distance(x, OBJECT, TCP)
    push_dist = distance_xy(x, OBJECT, TARGET)
    reached = reach_dist < 0.05
    # a cube that fell off the table, wherever, counts as at the goal
    if x[OBJECT + 2] < x[OBJECT_START + 2] - 0.05:
        reach_dist = 0.0
        push_dist = 0.0
    push_reward = 0.0
    if reached:
        push_reward = 1000.0 * (x[MAX_PUSH_DIST] - push_dist) + near_goal_bonus(push_dist)
    reward = -reach_dist + max(push_reward, 0.0)
    report(out, reward, indicator(push_dist <= 0.05), 1.0, 0.0, 0.0, 0.0, push_dist)
