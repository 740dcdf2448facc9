"""Meta-World's `TaskEnv` in this process: worlds on threads, no worker processes."""

from collections.abc import Mapping

import torch

from envs.metaworld.native.picture import pictures
from envs.metaworld.native.row import FORMAT
from envs.metaworld.native.scene import world_of
from meta_rl.core.types import EnvSpec, Picture, Task
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot
from meta_rl.rollouts.mujoco.task_env import MujocoTaskEnv


class NativeTaskEnv(MujocoTaskEnv):
    """Meta-World's worlds, stepped by compiled code. There is no chance in them.

    Args:
        goal_sizes: How many of a task's params are its goal, by task name.
        threads: How many cores to use, this process's own included.
    """

    def __init__(
        self,
        reward_version: str,
        goal_sizes: Mapping[str, int],
        spec: EnvSpec,
        device: torch.device,
        threads: int,
    ) -> None:
        super().__init__(FORMAT, spec, device, threads)
        self._reward_version = reward_version
        self._goal_sizes = goal_sizes
        self._pictures = pictures(reward_version, goal_sizes)

    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene of a task's class, and the snapshot of its goal."""
        return world_of(task, self._reward_version, self._goal_sizes)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by metaworld's environment."""
        engine = self._started()
        assert self._first_task is not None
        return self._pictures.draw(self._first_task, engine.states[0])

    def close(self) -> None:
        """End the threads and release the simulators."""
        self._pictures.close()
        super().close()
