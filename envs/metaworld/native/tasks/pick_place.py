"""pick-place-v3: bring a puck to a goal, often above the table."""

from envs.metaworld.native.row import (
    EFFORT,
    OBJECT,
    OBJECT_START,
    OPENING,
    TARGET,
    TCP,
    TOUCHING,
    TaskRow,
)
from envs.metaworld.native.shaping import (
    caged_between_pads,
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
LEFT_PAD_START = task.constant("init_left_pad", 3)
RIGHT_PAD_START = task.constant("init_right_pad", 3)
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the puck, then its nearness to the goal once it is lifted."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = distance(x, OBJECT, TARGET)
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, distance(x, OBJECT_START, TARGET))
    caged = caged_between_pads(
        x, LEFT_PAD_START, RIGHT_PAD_START, obj_radius=0.015, xz_thresh=0.005
    )
    gripping = 0.0
    if caged > 0.97:
        gripping = max(x[EFFORT], 0.0)
    object_grasped = (hamacher_product(caged, gripping) + caged) / 2.0
    reward = hamacher_product(object_grasped, in_place)
    height = x[OBJECT + 2]
    if tcp_to_obj < 0.02 and x[OPENING] > 0.0 and height - 0.01 > x[OBJECT_START + 2]:
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
