"""Pictures of robots, by Gymnasium's own environment."""

from typing import Any

import mujoco
from numpy.typing import NDArray

from envs.locomotion.gymnasium_face import LocomotionFamily
from meta_rl.core.types import Picture
from meta_rl.rollouts.mujoco.memory import STATE, state_size


class PictureMaker:
    """Draws a robot with the body that a task gives it.

    Args:
        name: Of the tasks, such as `half_cheetah_direction`.
        params: The task.
    """

    def __init__(self, name: str, params: tuple[float, ...]) -> None:
        self._robot = LocomotionFamily().make(name)
        self._robot.reset()
        self._robot.assign(params)

    def draw(self, state: NDArray[Any]) -> Picture:
        """Return a picture of the world that has this state; what follows the state is ignored."""
        model, data = self._robot.robot.model, self._robot.robot.data
        mujoco.mj_setState(model, data, state[: state_size(model)], STATE)
        mujoco.mj_forward(model, data)
        return self._robot.render()

    def close(self) -> None:
        """Release what MuJoCo draws with."""
        self._robot.close()
