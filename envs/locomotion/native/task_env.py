"""Locomotion's `TaskEnv` in this process: worlds on threads, no worker processes."""

import torch

from envs.locomotion.native.picture import PictureMaker
from envs.locomotion.native.scene import scene
from meta_rl.core.types import EnvSpec, Picture, Task
from meta_rl.rollouts.mujoco.pictures import Pictures
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot
from meta_rl.rollouts.mujoco.task_env import MujocoTaskEnv


class NativeLocomotion(MujocoTaskEnv):
    """Robots stepped by compiled code. Chance is in their resets alone.

    Args:
        name: Of the tasks, such as `half_cheetah_direction`.
        threads: How many cores to use, this process's own included.
    """

    def __init__(self, name: str, spec: EnvSpec, device: torch.device, threads: int) -> None:
        super().__init__(scene(name).format, spec, device, threads)
        self._name = name
        self._pictures = Pictures(lambda task: PictureMaker(name, task.params))

    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene of all tasks, and the snapshot of one."""
        its_scene = scene(self._name)
        return its_scene, its_scene.snapshot(task.params)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by Gymnasium's environment."""
        engine = self._started()
        assert self._first_task is not None
        return self._pictures.draw(self._first_task, engine.states[0])

    def close(self) -> None:
        """End the threads and release the simulators."""
        self._pictures.close()
        super().close()
