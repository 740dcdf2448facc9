"""Locomotion's `TaskEnv` in this process: worlds on threads, no worker processes."""

import mujoco
import torch
from jaxtyping import Float
from torch import Tensor

from envs.locomotion.gymnasium_face import LocomotionFamily, TaskRobot
from envs.locomotion.native.scene import scene
from meta_rl.core.types import EnvSpec, Picture, Task, Tasks
from meta_rl.rollouts.mujoco.memory import STATE, state_size
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
        self._drawn: TaskRobot | None = None
        self._drawn_task: Task | None = None

    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene of all tasks, and the snapshot of one."""
        its_scene = scene(self._name)
        return its_scene, its_scene.snapshot(task.params)

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations."""
        self._close_drawn()
        return super().start(tasks, copies, seed)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by Gymnasium's environment.

        It has an environment of its own: the scene's is for snapshots, which change its model.
        """
        engine = self._started()
        task = self._first_task
        assert task is not None
        if self._drawn_task != task:
            self._close_drawn()
        if self._drawn is None:
            self._drawn_task = task
            self._drawn = LocomotionFamily().make(self._name)
            self._drawn.reset()
            self._drawn.assign(task.params)
        model, data = self._drawn.robot.model, self._drawn.robot.data
        mujoco.mj_setState(model, data, engine.states[0, : state_size(model)], STATE)
        mujoco.mj_forward(model, data)
        return self._drawn.render()

    def close(self) -> None:
        """End the threads and release the simulators."""
        self._close_drawn()
        super().close()

    def _close_drawn(self) -> None:
        if self._drawn is not None:
            self._drawn.close()
            self._drawn = None
