"""What a reward sees of a world: one row of numbers, and the names of their places."""

from meta_rl.rollouts.mujoco.row import Finish, WorldFormat

POSITION = 0
"""Where the robot is, x and y in metres: kept for the velocity of the next step."""
VELOCITY = 2
"""Mean velocity over the step, along x and y in m/s."""
EFFORT = 4
"""Sum of the squared controls."""
CONTACT = 5
"""Sum of the squared forces on the bodies from contacts, each clipped as the task has it."""
HEIGHT = 6
"""Of the torso, in metres."""
ANGLE = 7
"""Of the torso, in radians, where the robot is in a plane."""
LARGEST = 8
"""The largest of all velocities and of the positions but the first two, by absolute value."""
TARGET = 9
"""What the task asks for (2)."""
OBS = 11
"""The observation, to the row's end."""

REWARD = 0
TERMINATED = 1


def world_format(
    observation_size: int, action_size: int, substeps: int, forces: bool
) -> WorldFormat:
    """Return what all worlds of a task's name have in common.

    Args:
        forces: Whether the observation or the reward has forces between bodies.
    """
    observation = slice(OBS, OBS + observation_size)
    return WorldFormat(
        observation=observation,
        finite=observation,
        outputs=2,
        metrics={},
        action_size=action_size,
        substeps=substeps,
        finish=Finish.FORCES if forces else Finish.NOTHING,
        terminated=TERMINATED,
    )
