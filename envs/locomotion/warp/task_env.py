"""Locomotion's `TaskEnv` on a GPU."""

import torch

from envs.locomotion.native.picture import PictureMaker
from envs.locomotion.native.scene import RobotScene, scene
from envs.locomotion.warp.robot import RobotCode
from meta_rl.core.types import EnvSpec, Picture, Task
from meta_rl.rollouts.mujoco.pictures import Pictures
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot
from meta_rl.rollouts.warp.task_env import WarpTaskEnv
from meta_rl.rollouts.warp.worlds import WorldCode


class WarpLocomotion(WarpTaskEnv):
    """Robots, stepped by MuJoCo Warp in single precision. Chance is in their resets alone.

    Args:
        name: Of the tasks, such as `half_cheetah_direction`.
        device: Where worlds, policies and rollouts live.
    """

    def __init__(self, name: str, spec: EnvSpec, device: torch.device) -> None:
        super().__init__(scene(name).format, spec, device)
        self._name = name
        self._pictures = Pictures(lambda task: PictureMaker(name, task.params))

    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene of all tasks, and the snapshot of one."""
        its_scene = scene(self._name)
        return its_scene, its_scene.snapshot(task.params)

    def code(self, scene: Scene) -> WorldCode:
        """Return how the robot acts and observes."""
        assert isinstance(scene, RobotScene)
        return RobotCode(scene)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by Gymnasium's environment."""
        assert self._first_task is not None
        return self._pictures.draw(self._first_task, self.state_of_first_world())

    def close(self) -> None:
        """Release the worlds."""
        self._pictures.close()
        super().close()
