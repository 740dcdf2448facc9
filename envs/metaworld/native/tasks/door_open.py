"""door-open-v3: pull a door open by its handle."""

import math

from envs.metaworld.native.row import EFFORT, HAND, OBJECT, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    clip,
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import geom, geom_rotation

task = TaskRow()
task.object(position=geom("handle"), quaternion=geom_rotation("handle"))
DOOR_ANGLE = task.joint("doorjoint")
MAX_PULL_DIST = task.constant("maxPullDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward a hand behind the handle that holds on, and the door's angle."""
    threshold = 0.12
    dx = x[HAND] - (x[OBJECT] - 0.05)
    dy = x[HAND + 1] - x[OBJECT + 1]
    dz = x[HAND + 2] - x[OBJECT + 2]
    # the floor is a funnel around the handle, which keeps the hand from running into it
    radius = length(dx, dy, 0.0)
    floor = 0.0
    if radius > threshold:
        floor = 0.04 * math.log(radius - threshold) + 0.4
    above_floor = 1.0
    if x[HAND + 2] < floor:
        above_floor = tolerance_long_tail(floor - x[HAND + 2], 0.0, 0.01, floor / 2.0)
    in_place = tolerance_long_tail(
        length(dx - 0.05, dy - 0.03, dz + 0.01), 0.0, threshold / 2.0, 0.5
    )
    ready = hamacher_product(above_floor, in_place)
    theta = x[DOOR_ANGLE]
    opened = 0.2 * indicator(theta < -math.pi / 90.0) + 0.8 * tolerance_long_tail(
        math.pi / 2.0 + math.pi / 6.0 + theta, 0.0, 0.5, math.pi / 3.0
    )
    grab = (clip(x[EFFORT], -1.0, 1.0) + 1.0) / 2.0
    success = indicator(abs(x[OBJECT] - x[TARGET]) <= 0.08)
    reward = 2.0 * hamacher_product(ready, grab) + 8.0 * opened
    if success > 0.0:
        reward = 10.0
    report(out, reward, success, ready, indicator(grab >= 0.5), grab, opened, 0.0)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, and from there its way to the goal."""
    pull_dist = distance_xy(x, OBJECT, TARGET)
    reach_dist = distance(x, OBJECT, TCP)
    pull_reward = 0.0
    if reach_dist < 0.05:
        pull_reward = 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + near_goal_bonus(pull_dist)
    success = indicator(abs(x[OBJECT] - x[TARGET]) <= 0.08)
    report(out, max(pull_reward, 0.0) - reach_dist, success, 0.0, 0.0, 0.0, 0.0, 0.0)
