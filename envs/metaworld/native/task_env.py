"""Meta-World's `TaskEnv` in this process: worlds on threads, no worker processes."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from envs.metaworld.native.picture import PictureMaker
from envs.metaworld.native.row import FORMAT
from envs.metaworld.native.scene import scene
from meta_rl.core.types import EnvSpec, Picture, Task, Tasks
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
        self._picture_maker: PictureMaker | None = None
        self._drawn_task: Task | None = None

    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene of a task's class, and the snapshot of its goal."""
        goal_size = self._goal_sizes[task.name]
        its_scene = scene(task.name, self._reward_version, goal_size)
        return its_scene, its_scene.snapshot(task.params[:goal_size])

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations."""
        self._close_picture_maker()
        return super().start(tasks, copies, seed)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by metaworld's environment."""
        engine = self._started()
        task = self._first_task
        assert task is not None
        if self._drawn_task != task:
            self._close_picture_maker()
        if self._picture_maker is None:
            self._drawn_task = task
            self._picture_maker = PictureMaker(
                task.name, self._reward_version, task.params[: self._goal_sizes[task.name]]
            )
        return self._picture_maker.draw(engine.states[0])

    def close(self) -> None:
        """End the threads and release the simulators."""
        self._close_picture_maker()
        super().close()

    def _close_picture_maker(self) -> None:
        if self._picture_maker is not None:
            self._picture_maker.close()
            self._picture_maker = None
