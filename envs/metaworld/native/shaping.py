"""Shapes that Meta-World's rewards are made of (`metaworld.utils.reward_utils`).

`x` is a world's row, and `a`, `b`, `thing` are places in it where a point begins.
"""

import math

from envs.metaworld.native.row import (
    EFFORT,
    GRASP_REWARD,
    GRASP_SUCCESS,
    IN_PLACE_REWARD,
    LEFT_PAD,
    NEAR_OBJECT,
    OBJECT,
    OBJECT_START,
    OBJECT_TO_TARGET,
    REWARD,
    RIGHT_PAD,
    SUCCESS,
    TARGET,
    TCP,
    TCP_START,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled

PLAIN = 0
HIGH_DENSITY = 1
MEDIUM_DENSITY = 2


@compiled
def report(
    out: Row,
    reward: float,
    success: float,
    near_object: float,
    grasp_success: float,
    grasp_reward: float,
    in_place_reward: float,
    obj_to_target: float,
) -> None:
    """Write all that a reward reports."""
    out[REWARD] = reward
    out[SUCCESS] = success
    out[NEAR_OBJECT] = near_object
    out[GRASP_SUCCESS] = grasp_success
    out[GRASP_REWARD] = grasp_reward
    out[IN_PLACE_REWARD] = in_place_reward
    out[OBJECT_TO_TARGET] = obj_to_target


@compiled
def indicator(condition: bool) -> float:
    """Return 1 where a condition holds and 0 where it does not."""
    if condition:
        return 1.0
    return 0.0


@compiled
def clip(value: float, lower: float, upper: float) -> float:
    """Return the value, or the bound that it exceeds."""
    return min(max(value, lower), upper)


@compiled
def length(dx: float, dy: float, dz: float) -> float:
    """Return the length of a vector."""
    return math.sqrt(dx * dx + dy * dy + dz * dz)


@compiled
def distance(x: Row, a: int, b: int) -> float:
    """Return the distance of two points."""
    return length(x[a] - x[b], x[a + 1] - x[b + 1], x[a + 2] - x[b + 2])


@compiled
def distance_xy(x: Row, a: int, b: int) -> float:
    """Return the horizontal distance of two points."""
    return length(x[a] - x[b], x[a + 1] - x[b + 1], 0.0)


@compiled
def distance_xz(x: Row, a: int, b: int) -> float:
    """Return the distance of two points seen along y."""
    return length(x[a] - x[b], 0.0, x[a + 2] - x[b + 2])


@compiled
def scaled_distance(
    x: Row, a: int, b: int, scale_x: float, scale_y: float, scale_z: float
) -> float:
    """Return the distance of two points where each axis counts by its scale."""
    return length(
        (x[a] - x[b]) * scale_x, (x[a + 1] - x[b + 1]) * scale_y, (x[a + 2] - x[b + 2]) * scale_z
    )


@compiled
def distance_to(x: Row, a: int, px: float, py: float, pz: float) -> float:
    """Return the distance of a point of the row to another one."""
    return length(x[a] - px, x[a + 1] - py, x[a + 2] - pz)


@compiled
def excess(value: float, lower: float, upper: float) -> float:
    """Return by how much a value is outside its bounds, negative inside."""
    if value < lower:
        return lower - value
    return value - upper


@compiled
def tolerance_long_tail(value: float, lower: float, upper: float, margin: float) -> float:
    """Return 1 within the bounds, and 0.1 at the margin's distance from them, with a long tail."""
    if lower <= value <= upper:
        return 1.0
    if margin == 0.0:
        return 0.0
    scaled = excess(value, lower, upper) / margin * 3.0  # sqrt(1 / 0.1 - 1)
    return 1.0 / (scaled * scaled + 1.0)


@compiled
def tolerance_gaussian(value: float, lower: float, upper: float, margin: float) -> float:
    """Return 1 within the bounds, and 0.1 at the margin's distance from them, with a short tail."""
    if lower <= value <= upper:
        return 1.0
    if margin == 0.0:
        return 0.0
    scaled = excess(value, lower, upper) / margin
    return math.exp(math.log(0.1) * scaled * scaled)


@compiled
def hamacher_product(a: float, b: float) -> float:
    """Return a soft "and" of two numbers in [0, 1]."""
    denominator = a + b - a * b
    if denominator > 0.0:
        return a * b / denominator
    return 0.0


@compiled
def between(value: float, a: float, b: float) -> bool:
    """Return whether a value lies between two others, whichever is larger."""
    return (a <= value and value <= b) or (b <= value and value <= a)


@compiled
def rect_prism_tolerance(x: Row, point: int, zero: int, one: int) -> float:
    """Return 1 outside a box, and inside from 0 at its corner `zero` up to 1 at the opposite."""
    if (
        between(x[point], x[zero], x[one])
        and between(x[point + 1], x[zero + 1], x[one + 1])
        and between(x[point + 2], x[zero + 2], x[one + 2])
    ):
        return (
            (x[point] - x[zero])
            / (x[one] - x[zero])
            * ((x[point + 1] - x[zero + 1]) / (x[one + 1] - x[zero + 1]))
            * ((x[point + 2] - x[zero + 2]) / (x[one + 2] - x[zero + 2]))
        )
    return 1.0


@compiled
def caging(
    x: Row,
    thing: int,
    obj_radius: float,
    pad_success_thresh: float,
    object_reach_radius: float,
    xz_thresh: float,
    desired_gripper_effort: float,
    density: int,
) -> float:
    """Return how well the gripper holds a thing: `SawyerXYZEnv._gripper_caging_reward`.

    Args:
        density: PLAIN, HIGH_DENSITY or MEDIUM_DENSITY.
    """
    return caging_at(
        x,
        x[thing],
        x[thing + 1],
        x[thing + 2],
        obj_radius,
        pad_success_thresh,
        object_reach_radius,
        xz_thresh,
        desired_gripper_effort,
        density,
    )


@compiled
def caging_at(
    x: Row,
    px: float,
    py: float,
    pz: float,
    obj_radius: float,
    pad_success_thresh: float,
    object_reach_radius: float,
    xz_thresh: float,
    desired_gripper_effort: float,
    density: int,
) -> float:
    """Return how well the gripper holds a thing at a point that the row does not have."""
    # each pad: between the thing's radius and the threshold, as seen along y
    left = tolerance_long_tail(
        abs(x[LEFT_PAD + 1] - py),
        obj_radius,
        pad_success_thresh,
        abs(abs(x[LEFT_PAD + 1] - x[OBJECT_START + 1]) - pad_success_thresh),
    )
    right = tolerance_long_tail(
        abs(x[RIGHT_PAD + 1] - py),
        obj_radius,
        pad_success_thresh,
        abs(abs(x[RIGHT_PAD + 1] - x[OBJECT_START + 1]) - pad_success_thresh),
    )
    caging_y = hamacher_product(left, right)
    caging_xz = tolerance_long_tail(
        length(x[TCP] - px, 0.0, x[TCP + 2] - pz),
        0.0,
        xz_thresh,
        distance_xz(x, OBJECT_START, TCP_START) - xz_thresh,
    )
    caged = hamacher_product(caging_y, caging_xz)
    gripping = 0.0
    if caged > 0.97:
        gripping = min(max(0.0, x[EFFORT]), desired_gripper_effort) / desired_gripper_effort
    result = hamacher_product(caged, gripping)
    if density == HIGH_DENSITY:
        result = (result + caged) / 2.0
    if density == MEDIUM_DENSITY:
        reach = tolerance_long_tail(
            distance_to(x, TCP, px, py, pz),
            0.0,
            object_reach_radius,
            abs(distance(x, OBJECT_START, TCP_START) - object_reach_radius),
        )
        result = (result + reach) / 2.0
    return result


@compiled
def between_pads(
    x: Row, left_pad_start: int, right_pad_start: int, obj_radius: float, pad_success_thresh: float
) -> float:
    """Return how well both pads are beside the object, each on its own side."""
    y = x[OBJECT + 1]
    left = tolerance_long_tail(
        x[LEFT_PAD + 1] - y,
        obj_radius,
        pad_success_thresh,
        abs(abs(y - x[left_pad_start + 1]) - 0.05),
    )
    right = tolerance_long_tail(
        y - x[RIGHT_PAD + 1],
        obj_radius,
        pad_success_thresh,
        abs(abs(y - x[right_pad_start + 1]) - 0.05),
    )
    return hamacher_product(left, right)


@compiled
def caged_between_pads(
    x: Row, left_pad_start: int, right_pad_start: int, obj_radius: float, xz_thresh: float
) -> float:
    """Return how well the object is between the pads, gripped or not."""
    caging_xz = tolerance_long_tail(
        distance_xz(x, TCP, OBJECT),
        0.0,
        xz_thresh,
        distance_xz(x, OBJECT_START, TCP_START) - xz_thresh,
    )
    caging_y = between_pads(x, left_pad_start, right_pad_start, obj_radius, 0.05)
    return hamacher_product(caging_y, caging_xz)


@compiled
def pinching(
    x: Row,
    left_pad_start: int,
    right_pad_start: int,
    obj_radius: float,
    grip_success_thresh: float,
    xz_thresh: float,
) -> float:
    """Return how well the pads hold the object, whatever effort the action asks for.

    `_gripper_caging_reward` of push-back, soccer, sweep and sweep-into.
    """
    caged = caged_between_pads(x, left_pad_start, right_pad_start, obj_radius, xz_thresh)
    gripping = 0.0
    if caged > 0.95:
        gripping = between_pads(x, left_pad_start, right_pad_start, obj_radius, grip_success_thresh)
    return (caged + gripping) / 2.0


@compiled
def pick_and_place_v1(
    x: Row, object_height: float, height_target: float, max_placing_dist: float, floor: float
) -> float:
    """Return v1's reward for reaching the object, lifting it, and its way to the goal.

    Args:
        floor: Height from which lifting counts.
    """
    reach_dist = distance(x, OBJECT, TCP)
    reach_dist_xy = distance_xy(x, OBJECT, TCP)
    reach_reward = -reach_dist
    if reach_dist_xy >= 0.05:
        reach_reward = -reach_dist_xy - 2.0 * abs(x[TCP + 2] - x[TCP_START + 2])
    if reach_dist < 0.05:
        reach_reward = -reach_dist + max(x[EFFORT], 0.0) / 50.0

    height = x[OBJECT + 2]
    placing_dist = distance(x, OBJECT, TARGET)
    on_ground = height < object_height + 0.005
    dropped = on_ground and placing_dist > 0.02 and reach_dist > 0.02
    picked = height >= height_target - 0.01 and not dropped
    pick_reward = 0.0
    if picked:
        pick_reward = 100.0 * (height_target - floor)
    elif reach_dist < 0.1 and height > object_height + 0.005:
        pick_reward = 100.0 * (min(height_target, height) - floor)

    place_reward = 0.0
    if picked and reach_dist < 0.1:
        place_reward = 1000.0 * (max_placing_dist - placing_dist) + near_goal_bonus(placing_dist)
    return reach_reward + pick_reward + max(place_reward, 0.0)


@compiled
def near_goal_bonus(dist: float) -> float:
    """Return the two bumps of v1 rewards: 1000 (exp(-d² / 0.01) + exp(-d² / 0.001))."""
    return 1000.0 * (math.exp(-(dist * dist) / 0.01) + math.exp(-(dist * dist) / 0.001))
