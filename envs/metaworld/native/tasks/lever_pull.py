"""lever-pull-v3: lift a lever until it points upward."""

import math

from envs.metaworld.native.row import HAND, OBJECT, TARGET, TCP, TCP_START, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    hamacher_product,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom_rotation, site

task = TaskRow()
task.object(position=site("leverStart"), quaternion=geom_rotation("objGeom"))
LEVER_ANGLE = task.joint("LeverAxis")
LEVER_START = task.constant("_lever_pos_init", 3)
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward Sawyer's shoulder under the lever together with the lever's nearness to the goal."""
    # the shoulder is behind and above the hand; y counts less, so that it gets below first
    shoulder_to_lever = length(
        4.0 * (x[HAND] - x[OBJECT]),
        x[HAND + 1] + 0.055 - x[OBJECT + 1],
        4.0 * (x[HAND + 2] + 0.07 - x[OBJECT + 2]),
    )
    margin = length(
        4.0 * (x[TCP_START] - x[LEVER_START]),
        x[TCP_START + 1] + 0.055 - x[LEVER_START + 1],
        4.0 * (x[TCP_START + 2] + 0.07 - x[LEVER_START + 2]),
    )
    ready_to_lift = tolerance_long_tail(shoulder_to_lever, 0.0, 0.02, margin)
    # the angle is reported and decides on success, but does not enter the reward
    lever_error = abs(-x[LEVER_ANGLE] - math.pi / 2.0)
    upright = tolerance_long_tail(lever_error, 0.0, math.pi / 48.0, math.pi / 2.0 - math.pi / 12.0)
    in_place = tolerance_long_tail(
        distance(x, OBJECT, TARGET), 0.0, 0.04, distance(x, LEVER_START, TARGET)
    )
    report(
        out,
        10.0 * hamacher_product(ready_to_lift, in_place),
        success=indicator(lever_error <= math.pi / 24.0),
        near_object=indicator(shoulder_to_lever < 0.03),
        grasp_success=indicator(ready_to_lift > 0.9),
        grasp_reward=ready_to_lift,
        in_place_reward=upright,
        obj_to_target=shoulder_to_lever,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the lever, and from there its way to the goal."""
    pull_dist = distance(x, OBJECT, TARGET)
    reach_dist = distance(x, OBJECT, TCP)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    # v2's limit on an angle, here on a distance
    success = indicator(pull_dist <= math.pi / 24.0)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 1.0, 0.0, 0.0, 0.0, 0.0)
