"""sweep-into-v3: sweep a cube into a hole in the table."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TOUCHING, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    length,
    near_goal_bonus,
    pinching,
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
MAX_PUSH_DIST = task.constant("maxPushDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward pinching the cube, and its nearness to the hole, in which it may fall."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = distance_xy(x, OBJECT, TARGET)
    # the target moves to the cube's present height, and so the margin grows as the cube falls
    margin = length(
        x[OBJECT_START] - x[TARGET],
        x[OBJECT_START + 1] - x[TARGET + 1],
        x[OBJECT_START + 2] - x[OBJECT + 2],
    )
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, margin)
    object_grasped = pinching(
        x,
        LEFT_PAD_START,
        RIGHT_PAD_START,
        obj_radius=0.02,
        grip_success_thresh=0.02 + 0.005,
        xz_thresh=0.01,
    )
    reward = 2.0 * object_grasped + 6.0 * hamacher_product(object_grasped, in_place)
    if obj_to_target < 0.05:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.05),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the cube, and from there its way into the hole."""
    reach_dist = distance(x, TCP, OBJECT)
    push_dist = distance_xy(x, OBJECT, TARGET)
    reach_reward = -reach_dist
    fallen = x[OBJECT + 2] < x[OBJECT_START + 2] - 0.05
    if fallen and x[OBJECT + 1] > 0.4 and x[OBJECT + 1] < 1.0:
        reach_reward = 0.0
        push_dist = 0.0
    push_reward = 0.0
    if reach_dist < 0.05:
        push_reward = 1000.0 * (x[MAX_PUSH_DIST] - push_dist) + near_goal_bonus(push_dist)
    reward = reach_reward + max(push_reward, 0.0)
    report(out, reward, indicator(push_dist <= 0.05), 1.0, 0.0, 0.0, 0.0, push_dist)
