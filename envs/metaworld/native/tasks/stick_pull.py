"""stick-pull-v3: take a stick, put it through a container's handle, and pull that to a goal."""

from envs.metaworld.native.row import (
    EFFORT,
    OBJECT,
    OBJECT_START,
    OPENING,
    SECOND_OBJECT,
    TARGET,
    TCP,
    TOUCHING,
    TaskRow,
)
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    distance_to,
    distance_xy,
    hamacher_product,
    indicator,
    length,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled
from meta_rl.rollouts.mujoco.row import body, body_rotation, site

task = TaskRow()
task.object(position=body("stick"), quaternion=body_rotation("stick"))
task.object(position=site("insertion"), quaternion=(0.0, 0.0, 0.0, 0.0))
task.touching()
STICK_END = task.site("stick_end")
STICK_START = task.constant("stick_init_pos", 3)
STICK_HEIGHT = task.constant("stickHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACE_DIST = task.constant("maxPlaceDist")
MAX_PULL_DIST = task.constant("maxPullDist")

MISTAKEN_CONTAINER = OBJECT + 2
"""Where v1 looks for the container: `obs[6:9]`, the stick's height and half its quaternion."""


@compiled
def stick_is_inserted(x: Row) -> bool:
    """Return whether the stick's end is through the handle."""
    return (
        x[STICK_END] >= x[SECOND_OBJECT]
        and abs(x[STICK_END + 1] - x[SECOND_OBJECT + 1]) <= 0.04
        and abs(x[STICK_END + 2] - x[SECOND_OBJECT + 2]) <= 0.06
    )


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the stick, then putting it in, then its and the container's way to the goal."""
    tcp_to_stick = distance(x, OBJECT, TCP)
    handle_to_target = distance(x, SECOND_OBJECT, TARGET)
    container = x[SECOND_OBJECT] + 0.05
    stick_to_container = length(
        x[OBJECT] - container,
        x[OBJECT + 1] - x[SECOND_OBJECT + 1],
        (x[OBJECT + 2] - x[SECOND_OBJECT + 2]) * 2.0,
    )
    margin = length(
        x[STICK_START] - (x[OBJECT_START] + 0.05),
        x[STICK_START + 1] - x[OBJECT_START + 1],
        (x[STICK_START + 2] - x[OBJECT_START + 2]) * 2.0,
    )
    stick_in_place = tolerance_long_tail(stick_to_container, 0.0, 0.05, margin)
    stick_at_target = tolerance_long_tail(
        distance(x, OBJECT, TARGET), 0.0, 0.05, distance(x, STICK_START, TARGET)
    )
    container_at_target = tolerance_long_tail(
        distance_to(x, TARGET, container, x[SECOND_OBJECT + 1], x[SECOND_OBJECT + 2]),
        0.0,
        0.05,
        distance(x, OBJECT_START, TARGET),
    )
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.014,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    inserted = stick_is_inserted(x)
    lifted = x[OPENING] > 0.0 and x[OBJECT + 2] - 0.01 > x[STICK_START + 2]
    held = tcp_to_stick < 0.02 and lifted
    if held:
        object_grasped = 1.0
    reward = hamacher_product(object_grasped, stick_in_place)
    if held and inserted:
        reward = 1.0 + reward + 5.0 + 2.0 * stick_at_target + container_at_target
        if handle_to_target <= 0.12:
            reward = 10.0
    elif held:
        reward = 1.0 + reward + 5.0 * stick_in_place
    # compares the stick's height with the container's at the start
    above_start = x[OBJECT + 2] - 0.02 > x[OBJECT_START + 2]
    report(
        out,
        reward,
        success=indicator(handle_to_target <= 0.12 and inserted),
        near_object=indicator(tcp_to_stick <= 0.03),
        grasp_success=indicator(x[TOUCHING] > 0.0 and x[OPENING] > 0.0 and above_start),
        grasp_reward=object_grasped,
        in_place_reward=stick_in_place,
        obj_to_target=handle_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the stick, lifting it, and then what it takes for the container's way."""
    pull_dist = distance_xy(x, MISTAKEN_CONTAINER, TARGET)
    place_dist = distance(x, OBJECT, MISTAKEN_CONTAINER)
    reach_dist = distance(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    on_ground = height < x[STICK_HEIGHT] + 0.005
    dropped = on_ground and pull_dist > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and not dropped
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.1 and height > x[STICK_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    pull_reward = 0.0
    if picked and reach_dist < 0.1:
        pull_reward = 1000.0 * (x[MAX_PLACE_DIST] - place_dist) + near_goal_bonus(place_dist)
        if place_dist < 0.05:
            pull_reward += 1000.0 * (x[MAX_PULL_DIST] - pull_dist) + 2.0 * near_goal_bonus(
                pull_dist
            )
    success = indicator(distance(x, SECOND_OBJECT, TARGET) <= 0.12 and stick_is_inserted(x))
    reward = reach_reward + pick_reward + max(pull_reward, 0.0)
    report(out, reward, success, 1.0, 0.0, 0.0, 0.0, pull_dist)
