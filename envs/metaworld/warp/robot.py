"""What Meta-World's worlds do beside physics: `SawyerXYZEnv.step`, in its order."""

from typing import Any

import numpy as np
import warp as wp

from envs.metaworld.native import observation, sawyer
from envs.metaworld.native.scene import MetaworldScene
from envs.metaworld.warp import kernels
from meta_rl.rollouts.warp.worlds import Limits, WorldCode, Worlds


class MetaworldCode(WorldCode):
    """The code of one class of tasks."""

    limits = Limits(contacts=64, constraints=256)

    def __init__(self, scene: MetaworldScene, reward_version: str) -> None:
        plan, numbers = observation.plan_of(scene.task)
        bounds = [*scene.env.mocap_low, *scene.env.mocap_high]
        self._plan = wp.array(plan, dtype=int)
        self._numbers = wp.array(np.concatenate([numbers, bounds]), dtype=float)
        self._geoms = sawyer.touching_geoms(scene, scene.task)
        self._observe = kernels.observing(scene.module.__name__, f"reward_{reward_version}")
        self._presses: Any = None

    def act(self, worlds: Worlds) -> None:
        """Move the hand's target and set the fingers' controls."""
        data = worlds.data
        moved = [data.mocap_pos, data.mocap_quat, data.ctrl]
        wp.launch(kernels.act, worlds.count, [self._numbers, worlds.actions, *moved])

    def observe(self, worlds: Worlds, which: wp.array) -> None:
        """Write observation, reward and what else the outputs have."""
        if self._presses is None:
            self._presses = wp.zeros((worlds.count, 2), dtype=float)
        if self._geoms[2] >= 0:
            data = worlds.data
            contacts = [data.contact.geom, data.contact.worldid, data.contact.efc_address]
            self._presses.zero_()
            wp.launch(
                kernels.press,
                data.naconmax,
                [data.nacon, *contacts, data.efc.force, *self._geoms, self._presses],
            )
        seen = [which, self._plan, self._numbers, self._presses, worlds.actions]
        wp.launch(self._observe, worlds.count, [*seen, worlds.rows, worlds.outputs])
