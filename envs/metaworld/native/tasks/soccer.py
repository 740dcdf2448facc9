"""soccer-v3: push a ball into a goal."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    clip,
    distance,
    distance_xy,
    indicator,
    near_goal_bonus,
    pinching,
    report,
    scaled_distance,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, body_rotation

task = TaskRow()
task.object(position=body("soccer_ball"), quaternion=body_rotation("soccer_ball"))
task.touching()
LEFT_PAD_START = task.constant("init_left_pad", 3)
RIGHT_PAD_START = task.constant("init_right_pad", 3)
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward pinching the ball, and its nearness to the goal, but not past the goal's posts."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    target_to_obj = scaled_distance(x, OBJECT, TARGET, 3.0, 1.0, 1.0)
    # metaworld's quirk: the margin is the way that the ball has made, not the goal's first distance
    margin = scaled_distance(x, OBJECT, OBJECT_START, 3.0, 1.0, 1.0)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.07, margin)
    goal_line = x[TARGET + 1] - 0.1
    if x[OBJECT + 1] > goal_line and abs(x[OBJECT] - x[TARGET]) > 0.10:
        past_line = (x[OBJECT + 1] - goal_line) / (1.0 - goal_line)
        in_place = clip(in_place - 2.0 * past_line, 0.0, 1.0)
    object_grasped = pinching(
        x,
        LEFT_PAD_START,
        RIGHT_PAD_START,
        obj_radius=0.013,
        grip_success_thresh=0.013 + 0.01,
        xz_thresh=0.005,
    )
    reward = 3.0 * object_grasped + 6.5 * in_place
    if target_to_obj < 0.07:
        reward = 10.0
    unscaled_target_to_obj = distance(x, OBJECT, TARGET)
    lifted = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(unscaled_target_to_obj <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0 and lifted),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=unscaled_target_to_obj,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the ball, and from there its way to the goal."""
    reach_dist = distance(x, TCP, OBJECT)
    push_dist = distance_xy(x, OBJECT, TARGET)
    push_reward = 0.0
    if reach_dist < 0.05:
        push_reward = 1000.0 * (x[MAX_PUSH_DIST] - push_dist) + near_goal_bonus(push_dist)
    reward = -reach_dist + max(push_reward, 0.0)
    report(out, reward, indicator(push_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, push_dist)
