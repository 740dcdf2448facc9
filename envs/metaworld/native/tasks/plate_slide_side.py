"""plate-slide-side-v3: slide a plate sideways into a cabinet.

v1 rewards all four ways to slide a plate alike, v2 all but plate-slide-v3.
"""

from envs.metaworld.native.row import OBJECT, OBJECT_START, TARGET, TCP, TCP_START
from envs.metaworld.native.shaping import distance, indicator, report, tolerance_long_tail
from envs.metaworld.native.tasks.plate_slide import reward_v1, task
from meta_rl.rollouts.mujoco.compiling import Row

__all__ = ["reward_v1", "reward_v2", "task"]


def reward_v2(x: Row, out: Row) -> None:
    """Reward reaching the plate, and from there its nearness to the goal."""
    obj_to_target = distance(x, OBJECT, TARGET)
    tcp_to_obj = distance(x, TCP, OBJECT)
    margin = distance(x, OBJECT_START, TARGET) - 0.05
    in_place = tolerance_long_tail(obj_to_target, 0.0, 0.05, margin)
    margin = distance(x, TCP_START, OBJECT_START) - 0.05
    reach = tolerance_long_tail(tcp_to_obj, 0.0, 0.05, margin)
    reward = 1.5 * reach
    if x[TCP + 2] <= 0.03 and tcp_to_obj < 0.07:
        reward = 2.0 + 7.0 * in_place
    if obj_to_target < 0.05:
        reward = 10.0
    success = indicator(obj_to_target <= 0.07)
    near = indicator(tcp_to_obj <= 0.03)
    report(out, reward, success, near, 0.0, reach, in_place, obj_to_target)
