"""reach-wall-v3: bring the hand over a wall to a goal. The puck on the table does not matter."""

from envs.metaworld.native.row import HAND_START, TARGET, TCP, TaskRow
from envs.metaworld.native.shaping import (
    distance,
    indicator,
    near_goal_bonus,
    report,
    tolerance_long_tail,
)
from meta_rl.rollouts.mujoco.compiling import Row
from meta_rl.rollouts.mujoco.row import body, geom_rotation

task = TaskRow()
task.object(position=body("obj"), quaternion=geom_rotation("objGeom"))
MAX_REACH_DIST = task.constant("maxReachDist")


def reward_v2(x: Row, out: Row) -> None:
    """Reward being near the goal."""
    reach_dist = distance(x, TCP, TARGET)
    in_place = tolerance_long_tail(reach_dist, 0.0, 0.05, distance(x, HAND_START, TARGET))
    success = indicator(reach_dist <= 0.05)
    report(out, 10.0 * in_place, success, 0.0, 0.0, 0.0, in_place, reach_dist)


def reward_v1(x: Row, out: Row) -> None:
    """Reward the way made towards the goal, and being near it."""
    reach_dist = distance(x, TCP, TARGET)
    reward = 1000.0 * (x[MAX_REACH_DIST] - reach_dist) + near_goal_bonus(reach_dist)
    success = indicator(reach_dist <= 0.05)
    report(out, max(reward, 0.0), success, 0.0, 0.0, 0.0, 0.0, reach_dist)
