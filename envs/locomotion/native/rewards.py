"""The tasks' rewards and where their episodes terminate, each by its task's name.

Terms are added in the order in which `gymnasium_face` and Gymnasium add them: the last bit counts.
"""

from envs.locomotion.native.row import (
    ANGLE,
    CONTACT,
    EFFORT,
    HEIGHT,
    LARGEST,
    POSITION,
    REWARD,
    TARGET,
    TERMINATED,
    VELOCITY,
)
from meta_rl.rollouts.mujoco.compiling import Row, compiled


def half_cheetah_direction(x: Row, out: Row) -> None:
    """Reward velocity in the wished direction."""
    out[REWARD] = x[TARGET] * x[VELOCITY] - 0.05 * x[EFFORT]
    out[TERMINATED] = 0.0


def half_cheetah_velocity(x: Row, out: Row) -> None:
    """Reward being as fast as wished."""
    out[REWARD] = -abs(x[VELOCITY] - x[TARGET]) - 0.05 * x[EFFORT]
    out[TERMINATED] = 0.0


def half_cheetah_dynamics(x: Row, out: Row) -> None:
    """Reward velocity forward, whatever the dynamics."""
    out[REWARD] = x[VELOCITY] - 0.05 * x[EFFORT]
    out[TERMINATED] = 0.0


def ant_direction(x: Row, out: Row) -> None:
    """Reward velocity in the wished direction, and being alive."""
    out[REWARD] = x[TARGET] * x[VELOCITY] - 0.005 * x[EFFORT] - 0.0005 * x[CONTACT] + 0.05
    out[TERMINATED] = ant_terminated(x)


def ant_velocity(x: Row, out: Row) -> None:
    """Reward being as fast as wished, and being alive."""
    forward = 1.0 - abs(x[VELOCITY] - x[TARGET])
    out[REWARD] = forward - 0.005 * x[EFFORT] - 0.0005 * x[CONTACT] + 0.05
    out[TERMINATED] = ant_terminated(x)


def ant_goal(x: Row, out: Row) -> None:
    """Reward being near the goal."""
    distance = abs(x[POSITION] - x[TARGET]) + abs(x[POSITION + 1] - x[TARGET + 1])
    out[REWARD] = -distance - 0.1 * x[EFFORT] - 0.0005 * x[CONTACT]
    out[TERMINATED] = 0.0


def humanoid_direction(x: Row, out: Row) -> None:
    """Reward velocity along the wished heading, and being alive."""
    along = x[TARGET] * x[VELOCITY] + x[TARGET + 1] * x[VELOCITY + 1]
    contact = min(5e-7 * x[CONTACT], 10.0)
    out[REWARD] = 1.25 * along - 0.1 * x[EFFORT] - contact + 5.0
    out[TERMINATED] = 0.0 if 1.0 < x[HEIGHT] < 2.0 else 1.0


def walker2d_dynamics(x: Row, out: Row) -> None:
    """Reward velocity forward, and being alive."""
    out[REWARD] = x[VELOCITY] - 0.001 * x[EFFORT] + 1.0
    healthy = 0.8 < x[HEIGHT] < 2.0 and -1.0 < x[ANGLE] < 1.0
    out[TERMINATED] = 0.0 if healthy else 1.0


def hopper_dynamics(x: Row, out: Row) -> None:
    """Reward velocity forward, and being alive."""
    out[REWARD] = x[VELOCITY] - 0.001 * x[EFFORT] + 1.0
    healthy = x[LARGEST] < 100.0 and x[HEIGHT] > 0.7 and -0.2 < x[ANGLE] < 0.2
    out[TERMINATED] = 0.0 if healthy else 1.0


@compiled
def ant_terminated(x: Row) -> float:
    """Return 1 where the ant has fallen or jumped too high."""
    return 0.0 if 0.2 <= x[HEIGHT] <= 1.0 else 1.0
