"""shelf-place-v3: put a puck onto a shelf."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    PLAIN,
    caging,
    clip,
    distance,
    hamacher_product,
    indicator,
    pick_and_place_v1,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, geom_rotation

task = TaskRow()
task.object(position=body("obj"), quaternion=geom_rotation("objGeom"))
task.touching()
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the puck, then its nearness to the goal, but not from under the shelf."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = distance(x, OBJECT, TARGET)
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.02,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=1.0,
        density=PLAIN,
    )
    reward = hamacher_product(object_grasped, in_place)
    height = x[OBJECT + 2]
    below = height > 0.0 and height < 0.24
    beside = x[OBJECT] <= x[TARGET] - 0.15 or x[OBJECT] >= x[TARGET] + 0.15
    front = x[TARGET + 1] - 3.0 * 0.05
    if below and not beside:
        if x[OBJECT + 1] > front and x[OBJECT + 1] < x[TARGET + 1]:
            depth = (x[OBJECT + 1] - front) / (3.0 * 0.05)
            in_place = clip(in_place - hamacher_product(depth, (0.24 - height) / 0.24), 0.0, 1.0)
        if x[OBJECT + 1] > x[TARGET + 1]:
            in_place = 0.0
    if tcp_to_obj < 0.025 and x[OPENING] > 0.0 and height - 0.01 > x[OBJECT_START + 2]:
        reward = reward + 1.0 + 5.0 * in_place
    if obj_to_target < 0.05:
        reward = 10.0
    lifted = height - 0.02 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0 and lifted),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the puck, lifting it, and its way to the goal."""
    placing_dist = distance(x, OBJECT, TARGET)
    reward = pick_and_place_v1(
        x, x[OBJECT_HEIGHT], x[HEIGHT_TARGET], x[MAX_PLACING_DIST], floor=0.0
    )
    report(out, reward, indicator(placing_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, placing_dist)
