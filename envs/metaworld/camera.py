"""Where Meta-World's tasks are looked at from. Nothing here may import torch."""

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from numpy.typing import NDArray

from meta_rl.core.errors import UserError
from meta_rl.rollouts.opengl import ADVICE, choose_opengl

VIEW = {
    "azimuth": 145.0,
    "elevation": -25.0,
    "distance": 1.45,
    "lookat": np.array([0.0, 0.62, 0.17]),
}
"""From the robot's right, over the table: arm, object and goal of all 50 tasks are in the picture.
Meta-World's own cameras are upside down, or look at the robot's back."""
SIZE = 400
"""Width and height of a picture, in pixels."""


class Camera(MujocoRenderer):
    """Draws one of Meta-World's environments.

    There are no shadows: in software, which is what machines without a GPU draw by, they take
    most of the time. Goals are marked where metaworld means them to be: its own steps put the
    marks there too, but MuJoCo moves some of them away again before anything is drawn.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        settings = env.model.vis
        settings.quality.shadowsize = 0
        settings.global_.offwidth = settings.global_.offheight = SIZE
        super().__init__(env.model, env.data, VIEW, width=SIZE, height=SIZE)

    def render(self, render_mode: str | None) -> NDArray[np.uint8]:
        """Return a picture of the environment as it is now."""
        choose_opengl()
        for name, position in self._env._target_site_config:
            self._env._set_pos_site(name, position)
        try:
            picture: NDArray[np.uint8] = super().render(render_mode)
        except Exception as error:  # each of the libraries has errors of its own
            raise UserError(f"MuJoCo cannot draw: {error!r}; {ADVICE}") from error
        return picture
