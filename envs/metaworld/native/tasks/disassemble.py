"""disassemble-v3: lift a wrench off a peg."""

import math

from envs.metaworld.native.row import (
    EFFORT,
    HAND,
    OBJECT,
    OBJECT_QUATERNION,
    TARGET,
    TCP,
    TCP_START,
    TaskRow,
)
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging_at,
    distance,
    distance_to,
    distance_xy,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body_quaternion, site

task = TaskRow()
task.object(position=site("RoundNut-8"), quaternion=body_quaternion("RoundNut"))
WRENCH_CENTER = task.site("RoundNut")
NUT = task.body("RoundNut")
PEG = task.constant(lambda env: env.model.body("peg").pos, 3)
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the wrench's handle and lifting its ring, as far as the wrench lies flat."""
    # the handle is no sphere: within its length, the hand counts as being at its middle
    handle_x = x[OBJECT]
    if abs(x[OBJECT] - x[HAND]) < 0.01:
        handle_x = x[HAND]
    grab = caging_at(
        x,
        handle_x,
        x[OBJECT + 1],
        x[OBJECT + 2],
        obj_radius=0.015,
        pad_success_thresh=0.02,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    w = x[OBJECT_QUATERNION] - 0.707
    i = x[OBJECT_QUATERNION + 1]
    j = x[OBJECT_QUATERNION + 2]
    k = x[OBJECT_QUATERNION + 3] - 0.707
    flat = max(1.0 - math.sqrt(w * w + i * i + j * j + k * k) / 0.4, 0.0)
    above = distance_to(x, WRENCH_CENTER, x[TARGET], x[TARGET + 1], x[TARGET + 2] + 0.1)
    in_place = 0.1 * indicator(x[WRENCH_CENTER + 2] > 0.02) + 0.9 * tolerance_long_tail(
        above, 0.0, 0.02, 0.2
    )
    success = indicator(x[OBJECT + 2] > x[TARGET + 2])
    reward = (2.0 * grab + 6.0 * in_place) * flat
    if success > 0.0:
        reward = 10.0
    report(out, reward, success, flat, indicator(grab >= 0.5), grab, in_place, 0.0)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the wrench, lifting it, and its way to the goal, or its ring off the peg."""
    reach_dist = distance(x, OBJECT, TCP)
    placing_dist = distance(x, OBJECT, TARGET)
    reach_dist_xy = distance_xy(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist_xy >= 0.04:
        reach_reward = -reach_dist_xy - 2.0 * abs(x[TCP + 2] - x[TCP_START + 2])
    if reach_dist < 0.04:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    on_ground = height < x[OBJECT_HEIGHT] + 0.005
    dropped = on_ground and placing_dist > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and reach_dist < 0.04 and not dropped
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.04 and height > x[OBJECT_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    place_reward = 0.0
    if picked and reach_dist < 0.03:
        place_reward = 1000.0 * (x[MAX_PLACING_DIST] - placing_dist) + near_goal_bonus(placing_dist)
    if abs(x[NUT] - x[PEG]) > 0.05 or abs(x[NUT + 1] - x[PEG + 1]) > 0.05:
        reach_reward = 0.0
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    reward = reach_reward + pick_reward + max(place_reward, 0.0)
    report(out, reward, indicator(height > x[TARGET + 2]), 0.0, 0.0, 0.0, 0.0, 0.0)
