"""hammer-v3: drive a nail into a box with a hammer."""

from envs.metaworld.native.row import EFFORT, HAND, OBJECT, OBJECT_QUATERNION, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging_at,
    distance,
    distance_to,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("hammer"), quaternion=body_quaternion("hammer"))
task.object(position=body("nail_link"), quaternion=body_quaternion("nail_link"))
NAIL_DEPTH = task.joint("NailSlideJoint")
HAMMER_HEAD = task.geom("HammerHead")
NAIL_HEAD = task.site("nailHead")
HAMMER_HEIGHT = task.constant("hammerHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_HAMMER_DIST = task.constant("maxHammerDist")


@compiled
def levelness(x: Row) -> float:
    """Return 1 for a hammer that lies as at the start, less the more it is turned."""
    dw = x[OBJECT_QUATERNION] - 1.0
    vector = length(x[OBJECT_QUATERNION + 1], x[OBJECT_QUATERNION + 2], x[OBJECT_QUATERNION + 3])
    return max(1.0 - length(dw, vector, 0.0) / 0.4, 0.0)


def reward_v2(x: Row, out: Row) -> None:
    """Reward holding the hammer's handle, lifting it and bringing its head to the nail, level."""
    # the handle is no sphere: along its length, any place is as good to hold it
    grasp_x = x[OBJECT]
    if abs(x[OBJECT] - x[HAND]) < 0.14 / 2.0:
        grasp_x = x[HAND]
    grab = caging_at(
        x,
        grasp_x,
        x[OBJECT + 1],
        x[OBJECT + 2],
        obj_radius=0.015,
        pad_success_thresh=0.02,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    # the head's place is right for a hammer that is not turned
    head_to_target = distance_to(x, TARGET, x[OBJECT] + 0.16, x[OBJECT + 1] + 0.06, x[OBJECT + 2])
    lifted = indicator(x[OBJECT + 2] > 0.02)
    in_place = 0.1 * lifted + 0.9 * tolerance_long_tail(head_to_target, 0.0, 0.02, 0.2)
    level = levelness(x)
    reward = (2.0 * grab + 6.0 * in_place) * level
    success = indicator(x[NAIL_DEPTH] > 0.09)
    if success > 0.0 and reward > 5.0:
        reward = 10.0
    report(out, reward, success, level, indicator(grab >= 0.5), grab, in_place, 0.0)


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the hammer, lifting it, and the way of its head and the nail."""
    head_to_nail = distance(x, NAIL_HEAD, HAMMER_HEAD)
    hammer_dist = head_to_nail + abs(x[NAIL_HEAD + 1] - x[TARGET + 1])
    reach_dist = distance(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    on_ground = height < x[HAMMER_HEIGHT] + 0.005
    dropped = on_ground and head_to_nail > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and not dropped
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.1 and height > x[HAMMER_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    hammer_reward = 0.0
    if picked and reach_dist < 0.1:
        hammer_reward = 1000.0 * (x[MAX_HAMMER_DIST] - hammer_dist) + near_goal_bonus(hammer_dist)
    reward = reach_reward + pick_reward + max(hammer_reward, 0.0)
    report(out, reward, indicator(x[NAIL_DEPTH] > 0.09), 0.0, 0.0, 0.0, 0.0, 0.0)
