"""peg-insert-side-v3: put a peg into a hole in the side of a box."""

from envs.metaworld.native.row import (
    EFFORT,
    OBJECT,
    OBJECT_START,
    OPENING,
    TARGET,
    TCP,
    TCP_START,
    TaskRow,
)
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    distance_xy,
    hamacher_product,
    indicator,
    near_goal_bonus,
    rect_prism_tolerance,
    report,
    scaled_distance,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import site, site_rotation

task = TaskRow()
task.object(position=site("pegGrasp"), quaternion=site_rotation("pegGrasp"))
PEG_HEAD = task.site("pegHead")
BOX_1_ZERO = task.site("bottom_right_corner_collision_box_1")
BOX_1_ONE = task.site("top_left_corner_collision_box_1")
BOX_2_ZERO = task.site("bottom_right_corner_collision_box_2")
BOX_2_ONE = task.site("top_left_corner_collision_box_2")
PEG_HEAD_START = task.constant("peg_head_pos_init", 3)
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the peg, then the nearness of its head to the hole, but not through the box."""
    tcp_to_obj = distance(x, OBJECT, TCP)
    obj_to_target = scaled_distance(x, PEG_HEAD, TARGET, 1.0, 2.0, 2.0)
    in_place_margin = scaled_distance(x, PEG_HEAD_START, TARGET, 1.0, 2.0, 2.0)
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.07, in_place_margin)
    collision_boxes = hamacher_product(
        rect_prism_tolerance(x, PEG_HEAD, zero=BOX_2_ZERO, one=BOX_2_ONE),
        rect_prism_tolerance(x, PEG_HEAD, zero=BOX_1_ZERO, one=BOX_1_ONE),
    )
    in_place = hamacher_product(in_place, collision_boxes)
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.0075,
        pad_success_thresh=0.03,
        object_reach_radius=0.01,
        xz_thresh=0.005,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    lifted = x[OPENING] > 0.0 and x[OBJECT + 2] - 0.01 > x[OBJECT_START + 2]
    held = tcp_to_obj < 0.08 and lifted
    if held:
        object_grasped = 1.0
    reward = hamacher_product(object_grasped, in_place)
    if held:
        reward = reward + 1.0 + 5.0 * in_place
    if obj_to_target <= 0.07:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(obj_to_target <= 0.07),
        near_object=indicator(tcp_to_obj <= 0.03),
        grasp_success=indicator(tcp_to_obj < 0.02 and lifted),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the peg, lifting it, and its way to the hole."""
    reach_dist = distance(x, OBJECT, TCP)
    placing_dist = distance(x, OBJECT, TARGET)
    placing_dist_head = distance(x, PEG_HEAD, TARGET)
    reach_dist_xy = distance_xy(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist_xy >= 0.05:
        reach_reward = -reach_dist_xy - abs(x[TCP + 2] - x[TCP_START + 2])
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    on_ground = height < x[OBJECT_HEIGHT] + 0.005
    dropped = on_ground and placing_dist > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and not dropped
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.1 and height > x[OBJECT_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    place_reward = 0.0
    if picked and reach_dist < 0.1:
        dist = placing_dist_head
        if placing_dist_head <= 0.05:
            dist = placing_dist
        place_reward = 1000.0 * (x[MAX_PLACING_DIST] - dist) + near_goal_bonus(dist)
    reward = reach_reward + pick_reward + max(place_reward, 0.0)
    report(out, reward, indicator(placing_dist <= 0.07), 1.0, 0.0, 0.0, 0.0, placing_dist)
