"""Pictures of the native simulator's worlds, by metaworld's own environment."""

from collections.abc import Mapping
from typing import Any

import mujoco
from numpy.typing import NDArray

from envs.metaworld.gymnasium_face import MetaworldFamily
from meta_rl.core.types import Picture, Task
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.mujoco.memory import STATE
from meta_rl.rollouts.mujoco.pictures import Pictures


class PictureMaker:
    """Draws worlds of one goal, each from its state, so that nothing is simulated again."""

    def __init__(self, name: str, reward_version: str, goal: tuple[float, ...]) -> None:
        family = MetaworldFamily(reward_version, {name: len(goal)})
        self._env: Any = family.make(name)
        family.assign(self._env, WorldTask(name, 0, goal))
        self._env.reset()

    def draw(self, state: NDArray[Any]) -> Picture:
        """Return a picture of the world that has this state; what follows the state is ignored."""
        model, data = self._env.model, self._env.data
        mujoco.mj_setState(model, data, state[: mujoco.mj_stateSize(model, STATE)], STATE)
        mujoco.mj_forward(model, data)
        picture: Picture = self._env.render()
        return picture

    def close(self) -> None:
        """Release what MuJoCo draws with."""
        self._env.close()


def pictures(reward_version: str, goal_sizes: Mapping[str, int]) -> Pictures:
    """Return what draws worlds of any task.

    Args:
        goal_sizes: How many of a task's params are its goal, by task name.
    """

    def make(task: Task) -> PictureMaker:
        return PictureMaker(task.name, reward_version, task.params[: goal_sizes[task.name]])

    return Pictures(make)
