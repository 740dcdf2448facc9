"""assembly-v3: put a wrench's ring over a peg."""

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
    MEDIUM_DENSITY,
    caging_at,
    distance,
    distance_xy,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled
from meta_rl.rollouts.mujoco.row import body_quaternion, site

task = TaskRow()
task.object(position=site("RoundNut-8"), quaternion=body_quaternion("RoundNut"))
RING = task.site("RoundNut")
WRENCH = task.body("RoundNut")
OBJECT_HEIGHT = task.constant("obj_height")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


@compiled
def lying_flat(x: Row) -> float:
    """Return 1 where the wrench lies flat, down to 0 where its quaternion is 0.4 away."""
    dw, dz = x[OBJECT_QUATERNION] - 0.707, x[OBJECT_QUATERNION + 3] - 0.707
    dx, dy = x[OBJECT_QUATERNION + 1], x[OBJECT_QUATERNION + 2]
    return max(1.0 - math.sqrt(dw * dw + dx * dx + dy * dy + dz * dz) / 0.4, 0.0)


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the handle and the ring's way over the peg, while the wrench lies flat."""
    # the caging sees a ball: it is where the hand is along the handle
    grasp_x = x[OBJECT]
    if abs(x[OBJECT] - x[HAND]) < 0.01:
        grasp_x = x[HAND]
    object_grasped = caging_at(
        x,
        grasp_x,
        x[OBJECT + 1],
        x[OBJECT + 2],
        obj_radius=0.015,
        pad_success_thresh=0.02,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=1.0,
        density=MEDIUM_DENSITY,
    )
    radius = distance_xy(x, TARGET, RING)
    on_peg = radius < 0.02 and x[TARGET + 2] - x[RING + 2] > 0.0
    # the ring's height follows a funnel around the peg, which is wider once it is on
    threshold = 0.01
    if on_peg:
        threshold = 0.02
    target_height = 0.0
    if radius > threshold:
        target_height = 0.02 * math.log(radius - threshold) + 0.2
    error = length(
        x[TARGET] - x[RING],
        x[TARGET + 1] - x[RING + 1],
        (target_height - x[RING + 2]) * 3.0,
    )
    lifted = indicator(x[RING + 2] > 0.02 or radius < threshold)
    in_place = 0.1 * lifted + 0.9 * tolerance_long_tail(error, 0.0, 0.02, 0.4)
    flat = lying_flat(x)
    reward = (2.0 * object_grasped + 6.0 * in_place) * flat
    if on_peg:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(on_peg),
        near_object=flat,
        grasp_success=indicator(object_grasped >= 0.5),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=0.0,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the handle, lifting the wrench, and its way over and down the peg."""
    reach_dist = distance(x, OBJECT, TCP)
    reach_dist_xy = distance_xy(x, OBJECT, TCP)
    placing_dist = distance_xy(x, WRENCH, TARGET)
    reach_reward = -reach_dist
    if reach_dist_xy >= 0.04:
        reach_reward = -reach_dist_xy - abs(x[TCP + 2] - x[TCP_START + 2])
    if reach_dist < 0.04:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[WRENCH + 2]
    height_left = abs(height - x[OBJECT_HEIGHT])
    on_ground = height < x[OBJECT_HEIGHT] + 0.005
    dropped = on_ground and placing_dist > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and reach_dist < 0.03 and not dropped
    over_peg = abs(x[WRENCH] - x[TARGET]) < 0.03 and abs(x[WRENCH + 1] - x[TARGET + 1]) < 0.03
    pick_reward = 0.0
    if over_peg or picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.04 and height > x[OBJECT_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    place_reward = 0.0
    if over_peg or picked:
        place_reward = 1000.0 * (x[MAX_PLACING_DIST] - placing_dist)
        place_reward = place_reward + near_goal_bonus(placing_dist)
    if over_peg:
        squared = height_left * height_left
        place_reward = place_reward + 2000.0 * (
            x[HEIGHT_TARGET]
            - height_left
            + math.exp(-squared / 0.003)
            + math.exp(-squared / 0.0003)
        )
    reward = reach_reward + pick_reward + max(place_reward, 0.0)
    success = indicator(over_peg and height_left <= 0.04)
    report(out, reward, success, 0.0, 0.0, 0.0, 0.0, 0.0)
