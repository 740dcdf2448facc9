"""box-close-v3: put a lid on a box."""

import math

from envs.metaworld.native.row import EFFORT, HAND, OBJECT, OBJECT_QUATERNION, TARGET, TaskRow
from envs.metaworld.native.shaping import (
    clip,
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    length,
    pick_and_place_v1,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("top_link"), quaternion=body_quaternion("top_link"))
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


@compiled
def upright(x: Row) -> float:
    """Return 1 where the lid is upright, down to 0 where its quaternion is 0.2 away."""
    dw, dz = x[OBJECT_QUATERNION] - 0.707, x[OBJECT_QUATERNION + 3] - 0.707
    dx, dy = x[OBJECT_QUATERNION + 1], x[OBJECT_QUATERNION + 2]
    return max(1.0 - math.sqrt(dw * dw + dx * dx + dy * dy + dz * dz) / 0.2, 0.0)


def reward_v2(x: Row, out: Row) -> None:
    """Reward a hand at the handle that holds on, and an upright lid's nearness to the box."""
    handle_z = x[OBJECT + 2] + 0.02
    # the floor is a funnel around the handle, which keeps the hand from running into it
    radius = distance_xy(x, HAND, OBJECT)
    floor = 0.0
    if radius > 0.02:
        floor = 0.04 * math.log(radius - 0.02) + 0.4
    above_floor = 1.0
    if x[HAND + 2] < floor:
        above_floor = tolerance_long_tail(floor - x[HAND + 2], 0.0, 0.01, floor / 2.0)
    hand_to_handle = length(
        x[HAND] - x[OBJECT], x[HAND + 1] - x[OBJECT + 1], x[HAND + 2] - handle_z
    )
    in_place = tolerance_long_tail(hand_to_handle, 0.0, 0.02, 0.5)
    ready = hamacher_product(above_floor, in_place)
    error = length(
        x[TARGET] - x[OBJECT], x[TARGET + 1] - x[OBJECT + 1], (x[TARGET + 2] - handle_z) * 3.0
    )
    closed = 0.2 * indicator(handle_z > 0.04) + 0.8 * tolerance_long_tail(error, 0.0, 0.05, 0.25)
    grab = (clip(x[EFFORT], -1.0, 1.0) + 1.0) / 2.0
    success = indicator(distance(x, OBJECT, TARGET) < 0.08)
    reward = 2.0 * hamacher_product(grab, ready) + 8.0 * closed
    if success > 0.0:
        reward = 10.0
    reward = reward * upright(x)  # no reward for kicking the lid onto the box
    report(out, reward, success, ready, indicator(grab >= 0.5), grab, closed, 0.0)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the lid, lifting it, and its way to the box."""
    reward = pick_and_place_v1(
        x, x[OBJECT_HEIGHT], x[HEIGHT_TARGET], x[MAX_PLACING_DIST], floor=0.0
    )
    placing_dist = distance(x, OBJECT, TARGET)
    report(out, reward, indicator(placing_dist < 0.08), 0.0, 0.0, 0.0, 0.0, 0.0)
