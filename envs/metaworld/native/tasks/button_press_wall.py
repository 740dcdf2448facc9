"""button-press-wall-v3: press a button behind a wall."""

from envs.metaworld.native.row import OBJECT, OPENING, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    hamacher_product,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(
    position=body("button"), offset=(0.0, -0.193, 0.0), quaternion=body_quaternion("button")
)
LEFT_FINGER = task.site("leftEndEffector")
FIRST_OBJECT_TO_TARGET = task.constant("_obj_to_target_init")
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward a closed gripper on the way to the button, there an open one, and how far it goes."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = abs(x[TARGET + 1] - x[OBJECT + 1])
    near_button = tolerance_long_tail(tcp_to_obj, 0.0, 0.01, distance(x, OBJECT, TCP_START))
    button_pressed = tolerance_long_tail(obj_to_target, 0.0, 0.005, x[FIRST_OBJECT_TO_TARGET])
    if tcp_to_obj > 0.07:
        reward = 2.0 * hamacher_product((1.0 - x[OPENING]) / 2.0, near_button)
    else:
        reward = 2.0 + 2.0 * (1.0 + x[OPENING]) + 4.0 * button_pressed * button_pressed
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.03),
        near_object=indicator(tcp_to_obj <= 0.05),
        grasp_success=indicator(x[OPENING] > 0.0),
        grasp_reward=near_button,
        in_place_reward=button_pressed,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the button, and from there its way in."""
    reach_dist = distance(x, OBJECT, LEFT_FINGER)
    press_dist = abs(x[OBJECT + 1] - x[TARGET + 1])
    press_reward = 0.0
    if reach_dist < 0.05:
        press_reward = 1000.0 * (x[MAX_DIST] - press_dist) + near_goal_bonus(press_dist)
    reward = -reach_dist + max(press_reward, 0.0)
    report(out, reward, indicator(press_dist <= 0.03), 1.0, 0.0, 0.0, 0.0, press_dist)
