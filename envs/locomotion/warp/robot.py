"""What robots do beside physics."""

import mujoco_warp as mjw
import warp as wp

from envs.locomotion.native.scene import RobotScene
from envs.locomotion.warp import kernels
from meta_rl.rollouts.warp.worlds import Limits, WorldCode, Worlds


class RobotCode(WorldCode):
    """The code of one task's name."""

    limits = Limits(contacts=64, constraints=256)

    def __init__(self, scene: RobotScene) -> None:
        self._plan = wp.array(scene.plan, dtype=int)
        self._numbers = wp.array(scene.numbers, dtype=float)
        self._observe = kernels.observing(scene.name)
        self._scale = float(scene.env._reset_noise_scale)
        self._normal = scene.body.speeds == "normal"
        self._needs_bodies = scene.body.centre != "joint"

    def act(self, worlds: Worlds) -> None:
        """Set the controls."""
        inputs = [self._plan, self._numbers, worlds.actions, worlds.data.ctrl]
        wp.launch(kernels.act, worlds.actions.shape, inputs)

    def observe(self, worlds: Worlds, which: wp.array) -> None:
        """Write observation, reward and termination."""
        inputs = [which, self._plan, self._numbers, worlds.rows, worlds.outputs]
        wp.launch(self._observe, worlds.count, inputs)

    def draw_starts(self, worlds: Worlds, which: wp.array) -> None:
        """Draw positions and speeds; forces are zero until a step."""
        model, data = worlds.model, worlds.data
        drawn = [worlds.chance, data.qpos, data.qvel]
        inputs = [which, self._scale, self._normal, *drawn]
        wp.launch(kernels.draw_starts, worlds.count, inputs)
        if self._needs_bodies:
            mjw.kinematics(model, data)
            mjw.com_pos(model, data)
            mjw.com_vel(model, data)
