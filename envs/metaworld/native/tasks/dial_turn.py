"""dial-turn-v3: turn a dial by half a round."""

import math

from envs.metaworld.native.row import EFFORT, OBJECT, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    clip,
    distance,
    distance_to,
    hamacher_product,
    indicator,
    report,
    tolerance_gaussian,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("dial"), quaternion=body_quaternion("dial"))
DIAL_ANGLE = task.joint("knob_Joint_1")
PUSH_POSITION_START = task.constant("dial_push_position", 3)
MAX_PULL_DIST = task.constant("maxPullDist")


def observe(x: Row) -> None:
    """Observe the dial's handle, 5 cm from its axis, in place of its centre."""
    x[OBJECT] = x[OBJECT] + 0.05 * math.sin(x[DIAL_ANGLE])
    x[OBJECT + 1] = x[OBJECT + 1] - 0.05 * math.cos(x[DIAL_ANGLE])


def reward_v2(x: Row, out: Row) -> None:
    """Reward a closed gripper beside the handle together with the handle's nearness to the goal."""
    target_to_obj = distance(x, OBJECT, TARGET)
    margin = abs(distance(x, PUSH_POSITION_START, TARGET) - 0.07)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.07, margin)
    tcp_to_obj = distance_to(x, TCP, x[OBJECT] + 0.05, x[OBJECT + 1] + 0.02, x[OBJECT + 2] + 0.09)
    margin = abs(distance(x, PUSH_POSITION_START, TCP_START) - 0.005)
    reach = tolerance_gaussian(tcp_to_obj, 0.0, 0.005, margin)
    reach = hamacher_product(reach, clip(x[EFFORT], 0.0, 1.0))
    reward = 10.0 * hamacher_product(reach, in_place)
    success = indicator(target_to_obj <= 0.07)
    near = indicator(tcp_to_obj <= 0.01)
    report(out, reward, success, near, 1.0, reach, in_place, target_to_obj)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there its way to the goal along y."""
    reach_dist = distance(x, OBJECT, TCP)
    pull_dist = abs(x[OBJECT + 1] - x[TARGET + 1])
    squared = pull_dist * pull_dist
    pull_reward = 0.0
    if reach_dist < 0.05:
        # the bumps are narrower here than those of `near_goal_bonus`
        bonus = 1000.0 * (math.exp(-squared / 0.001) + math.exp(-squared / 0.0001))
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + bonus
    success = indicator(pull_dist <= 0.07)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 1.0, 0.0, 0.0, pull_dist)
