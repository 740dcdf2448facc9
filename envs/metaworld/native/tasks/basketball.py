"""basketball-v3: put a ball into a basket."""

from envs.metaworld.native.row import OBJECT, OBJECT_START, OPENING, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    HIGH_DENSITY,
    caging,
    distance,
    hamacher_product,
    indicator,
    length,
    pick_and_place_v1,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled
from meta_rl.rollouts.mujoco.row import body, body_quaternion

task = TaskRow()
task.object(position=body("bsktball"), quaternion=body_quaternion("bsktball"))
OBJECT_HEIGHT = task.constant("objHeight")
HEIGHT_TARGET = task.constant("heightTarget")
MAX_PLACING_DIST = task.constant("maxPlacingDist")


@compiled
def distance_to_hoop(x: Row, point: int) -> float:
    """Return the distance of a point to slightly above the hoop, with height counting twice."""
    return length(x[point] - x[TARGET], x[point + 1] - x[TARGET + 1], (x[point + 2] - 0.3) * 2.0)


def reward_v2(x: Row, out: Row) -> None:
    """Reward caging the ball, then its nearness to a point above the hoop."""
    target_to_obj = distance_to_hoop(x, OBJECT)
    in_place = tolerance_long_tail(target_to_obj, 0.0, 0.08, distance_to_hoop(x, OBJECT_START))
    tcp_to_obj = distance(x, OBJECT, TCP)
    object_grasped = caging(
        x,
        OBJECT,
        obj_radius=0.025,
        pad_success_thresh=0.06,
        object_reach_radius=0.01,
        xz_thresh=0.005,
        desired_gripper_effort=1.0,
        density=HIGH_DENSITY,
    )
    opened = x[OPENING] > 0.0
    held = tcp_to_obj < 0.035 and opened and x[OBJECT + 2] - 0.01 > x[OBJECT_START + 2]
    if held:
        object_grasped = 1.0
    reward = hamacher_product(object_grasped, in_place)
    if held:
        reward = reward + 1.0 + 5.0 * in_place
    if target_to_obj < 0.08:
        reward = 10.0
    report(
        out,
        reward,
        success=indicator(target_to_obj <= 0.08),
        near_object=indicator(tcp_to_obj <= 0.05),
        grasp_success=indicator(opened and x[OBJECT + 2] - 0.03 > x[OBJECT_START + 2]),
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


def reward_v1(x: Row, out: Row) -> None:
    """Reward reaching the ball, lifting it, and its way to the basket."""
    reward = pick_and_place_v1(
        x, x[OBJECT_HEIGHT], x[HEIGHT_TARGET], x[MAX_PLACING_DIST], floor=0.0
    )
    placing_dist = distance(x, OBJECT, TARGET)
    report(out, reward, indicator(placing_dist <= 0.08), 1.0, 0.0, 0.0, 0.0, placing_dist)
