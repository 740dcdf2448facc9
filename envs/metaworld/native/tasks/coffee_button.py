"""coffee-button-v3: press the button of a coffee machine."""

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
from meta_rl.rollouts.mujoco.row import site

task = TaskRow()
task.object(position=site("buttonStart"), quaternion=(1.0, 0.0, 0.0, 0.0))
LEFT_FINGER = task.site("leftEndEffector")
MAX_DIST = task.constant("maxDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward an open gripper at the button, and there how far it is pressed."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = abs(x[TARGET + 1] - x[OBJECT + 1])
    near_button = tolerance_long_tail(tcp_to_obj, 0.0, 0.05, distance(x, OBJECT, TCP_START))
    button_pressed = tolerance_long_tail(obj_to_target, 0.0, 0.005, 0.03)
    reward = 2.0 * hamacher_product(max(x[OPENING], 0.0), near_button)
    if tcp_to_obj <= 0.05:
        reward = reward + 8.0 * button_pressed
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.02),
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
    report(out, reward, indicator(press_dist <= 0.02), 1.0, 0.0, 0.0, 0.0, press_dist)
