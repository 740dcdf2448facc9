"""stick-push-v3: take a stick and push a container to a goal with it."""

import math

from envs.metaworld.native.row import (
    EFFORT,
    LEFT_PAD,
    OBJECT,
    OBJECT_START,
    OPENING,
    RIGHT_PAD,
    SECOND_OBJECT,
    TARGET,
    TCP,
    TCP_START,
    TOUCHING,
    TaskRow,
)
from envs.metaworld.native.shaping import (
    clip,
    distance,
    distance_to,
    distance_xy,
    distance_xz,
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
task.object(position=site("insertion"), offset=(0.0, 0.09, 0.0), quaternion=(0.0, 0.0, 0.0, 0.0))
task.touching()
STICK_START = task.constant("stick_init_pos", 3)
STICK_HEIGHT = task.constant("stickHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACE_DIST = task.constant("maxPlaceDist")
MAX_PUSH_DIST = task.constant("maxPushDist")

MISTAKEN_CONTAINER = OBJECT + 2
"""Where v1 looks for the container: `obs[6:9]`, the stick's height and half its quaternion."""


@compiled
def caging(x: Row, px: float) -> float:
    """Return how well the gripper holds the stick: stick-push's own `_gripper_caging_reward`.

    It differs from `shaping.caging` in where it starts: at the stick, not at the container.
    """
    left = tolerance_long_tail(
        abs(x[LEFT_PAD + 1] - x[OBJECT + 1]),
        0.04,
        0.05,
        abs(abs(x[LEFT_PAD + 1] - x[STICK_START + 1]) - 0.05),
    )
    right = tolerance_long_tail(
        abs(x[RIGHT_PAD + 1] - x[OBJECT + 1]),
        0.04,
        0.05,
        abs(abs(x[RIGHT_PAD + 1] - x[STICK_START + 1]) - 0.05),
    )
    caging_xz = tolerance_long_tail(
        length(x[TCP] - px, 0.0, x[TCP + 2] - x[OBJECT + 2]),
        0.0,
        0.01,
        distance_xz(x, STICK_START, TCP_START) - 0.01,
    )
    caged = hamacher_product(hamacher_product(left, right), caging_xz)
    gripping = 0.0
    if caged > 0.97:
        gripping = clip(x[EFFORT], 0.0, 1.0)
    return (hamacher_product(caged, gripping) + caged) / 2.0


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the stick, then its and the container's nearness to the goal."""
    px = x[OBJECT] + 0.015  # where to take the stick
    tcp_to_stick = distance_to(x, TCP, px, x[OBJECT + 1], x[OBJECT + 2])
    stick_in_place = tolerance_long_tail(
        distance_to(x, TARGET, px, x[OBJECT + 1], x[OBJECT + 2]),
        0.0,
        0.12,
        distance(x, STICK_START, TARGET) - 0.12,
    )
    container_to_target = distance(x, SECOND_OBJECT, TARGET)
    container_in_place = tolerance_long_tail(
        container_to_target, 0.0, 0.12, distance(x, OBJECT_START, TARGET) - 0.12
    )
    object_grasped = caging(x, px)
    reward = object_grasped
    lifted = x[OPENING] > 0.0 and x[OBJECT + 2] - 0.01 > x[STICK_START + 2]
    if tcp_to_stick < 0.02 and lifted:
        object_grasped = 1.0
        reward = 2.0 + 5.0 * stick_in_place + 3.0 * container_in_place
        if container_to_target <= 0.12:
            reward = 10.0
    grasp_success = x[TOUCHING] > 0.0 and lifted
    report(
        out,
        reward,
        success=indicator(grasp_success and container_to_target <= 0.12),
        near_object=indicator(tcp_to_stick <= 0.03),
        grasp_success=indicator(grasp_success),
        grasp_reward=object_grasped,
        in_place_reward=stick_in_place,
        obj_to_target=container_to_target,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the stick, lifting it, and then what it takes for the container's way.

    Success needs a grasp, which v1 never reports.
    """
    push_dist = distance_xy(x, MISTAKEN_CONTAINER, TARGET)
    place_dist = distance(x, MISTAKEN_CONTAINER, OBJECT)
    reach_dist = distance(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    on_ground = height < x[STICK_HEIGHT] + 0.005
    dropped = on_ground and push_dist > 0.02 and reach_dist > 0.02
    picked = height >= x[HEIGHT_TARGET] - 0.01 and not dropped
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * x[HEIGHT_TARGET]
    elif reach_dist < 0.1 and height > x[STICK_HEIGHT] + 0.005:
        pick_reward = 100.0 * min(x[HEIGHT_TARGET], height)

    push_reward = 0.0
    if picked and reach_dist < 0.1:
        push_reward = 1000.0 * (x[MAX_PLACE_DIST] - place_dist) + near_goal_bonus(place_dist)
        if place_dist < 0.05:
            near = math.exp(-(push_dist * push_dist) / 0.001)
            nearer = math.exp(-(push_dist * push_dist) / 0.0001)
            push_reward += 1000.0 * (x[MAX_PUSH_DIST] - push_dist) + 2000.0 * (near + nearer)
    reward = reach_reward + pick_reward + max(push_reward, 0.0)
    report(out, reward, 0.0, 1.0, 0.0, 0.0, 0.0, push_dist)
