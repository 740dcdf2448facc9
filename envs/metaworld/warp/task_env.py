"""Meta-World's `TaskEnv` on a GPU."""

from collections.abc import Mapping

import torch

from envs.metaworld.native.picture import pictures
from envs.metaworld.native.row import FORMAT
from envs.metaworld.native.scene import MetaworldScene, world_of
from envs.metaworld.warp.robot import MetaworldCode
from meta_rl.core.types import EnvSpec, Picture, Task
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot
from meta_rl.rollouts.warp.task_env import WarpTaskEnv
from meta_rl.rollouts.warp.worlds import WorldCode


class WarpMetaworld(WarpTaskEnv):
    """Meta-World's worlds, stepped by MuJoCo Warp in single precision.

    Args:
        goal_sizes: How many of a task's params are its goal, by task name.
        device: Where worlds, policies and rollouts live.
    """

    def __init__(
        self,
        reward_version: str,
        goal_sizes: Mapping[str, int],
        spec: EnvSpec,
        device: torch.device,
    ) -> None:
        super().__init__(FORMAT, spec, device)
        self._reward_version = reward_version
        self._goal_sizes = goal_sizes
        self._pictures = pictures(reward_version, goal_sizes)

    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene of a task's class, and the snapshot of its goal."""
        return world_of(task, self._reward_version, self._goal_sizes)

    def code(self, scene: Scene) -> WorldCode:
        """Return how a class's worlds act and observe."""
        assert isinstance(scene, MetaworldScene)
        return MetaworldCode(scene, self._reward_version)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by metaworld's environment."""
        assert self._first_task is not None
        return self._pictures.draw(self._first_task, self.state_of_first_world())

    def close(self) -> None:
        """Release the worlds."""
        self._pictures.close()
        super().close()
