"""Gymnasium's robots with the tasks' rewards: the reference. Nothing here may import torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.locomotion.tasks import TASKS
from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.opengl import ADVICE, choose_opengl

SIZE = 400
"""Width and height of a picture, in pixels."""
Info: TypeAlias = Mapping[str, Any]
Params: TypeAlias = NDArray[np.float64]


def half_cheetah_direction(info: Info, params: Params) -> float:
    """Reward velocity in the wished direction (Finn et al. 2017, §5.3)."""
    return float(params[0] * info["x_velocity"] + info["reward_ctrl"])


def half_cheetah_velocity(info: Info, params: Params) -> float:
    """Reward being as fast as wished (Finn et al. 2017, §5.3)."""
    return float(-abs(info["x_velocity"] - params[0]) + info["reward_ctrl"])


def half_cheetah_dynamics(info: Info, params: Params) -> float:
    """Reward velocity forward, whatever the dynamics."""
    return float(info["x_velocity"] + info["reward_ctrl"])


def ant_direction(info: Info, params: Params) -> float:
    """Reward velocity in the wished direction, and being alive."""
    forward = params[0] * info["x_velocity"]
    return float(forward + info["reward_ctrl"] + info["reward_contact"] + 0.05)


def ant_velocity(info: Info, params: Params) -> float:
    """Reward being as fast as wished, and being alive; the 1 keeps the ant from ending it all."""
    forward = 1.0 - abs(info["x_velocity"] - params[0])
    return float(forward + info["reward_ctrl"] + info["reward_contact"] + 0.05)


def ant_goal(info: Info, params: Params) -> float:
    """Reward being near the goal."""
    x, y = info["torso"]
    distance = abs(x - params[0]) + abs(y - params[1])
    return float(-distance + info["reward_ctrl"] + info["reward_contact"])


def humanoid_direction(info: Info, params: Params) -> float:
    """Reward velocity along the wished heading, and being alive."""
    along = params[0] * info["x_velocity"] + params[1] * info["y_velocity"]
    return float(1.25 * along + info["reward_ctrl"] + info["reward_contact"] + 5.0)


def forward(info: Info, params: Params) -> float:
    """Reward velocity forward, and being alive, whatever the dynamics."""
    return float(info["x_velocity"] + info["reward_ctrl"] + 1.0)


REWARDS: dict[str, Callable[[Info, Params], float]] = {
    "half_cheetah_direction": half_cheetah_direction,
    "half_cheetah_velocity": half_cheetah_velocity,
    "half_cheetah_dynamics": half_cheetah_dynamics,
    "ant_direction": ant_direction,
    "ant_velocity": ant_velocity,
    "ant_goal": ant_goal,
    "humanoid_direction": humanoid_direction,
    "walker2d_dynamics": forward,
    "hopper_dynamics": forward,
}


class TaskRobot(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A robot of Gymnasium's that has a task: a reward of its own, and maybe a body of its own.

    It acts in [-1, 1], whatever the bounds of its controls.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        model = self.robot.model
        model.vis.quality.shadowsize = 0  # in software, shadows take most of the time
        low, high = model.actuator_ctrlrange.T
        assert (low == -high).all(), "a fraction of the bounds means a symmetric range"
        self._bounds = high.copy()
        self._reward = REWARDS[name]
        kind = TASKS[name]
        self._sizes = kind.robot.dynamics_sizes if kind.varies == "dynamics" else {}
        self._usual = {field: getattr(model, field).copy() for field in self._sizes}
        self._params: Params = np.zeros(0)
        self.action_space = Box(-1.0, 1.0, self._bounds.shape, np.float32)

    @property
    def robot(self) -> Any:
        """Gymnasium's own environment, with its `model` and `data`."""
        return self.unwrapped

    def assign(self, params: tuple[float, ...]) -> None:
        """Take on a task: what the reward asks for, or factors of the model's numbers.

        As in the papers' code, what MuJoCo derives of a model when it compiles it (`mj_setConst`)
        stays that of the usual body.
        """
        self._params = np.array(params)
        start = 0
        for field, size in self._sizes.items():
            usual = self._usual[field]
            factors = self._params[start : start + size].reshape(usual.shape)
            getattr(self.robot.model, field)[...] = usual * factors
            start += size

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step with controls that are fractions of their bounds."""
        controls = np.asarray(action, np.float64) * self._bounds
        obs, _, terminated, truncated, info = self.env.step(controls)
        if "y_velocity" in info:
            info["torso"] = self.robot.get_body_com("torso")[:2]
        return obs, self._reward(info, self._params), bool(terminated), truncated, info

    def render(self) -> NDArray[np.uint8]:
        """Return a picture of the robot as it is now."""
        choose_opengl()
        try:
            picture: Any = self.env.render()
        except Exception as error:  # each of the libraries has errors of its own
            raise UserError(f"MuJoCo cannot draw: {error!r}; {ADVICE}") from error
        return np.asarray(picture)


@dataclass(frozen=True)
class LocomotionFamily:
    """Makes robots of Gymnasium's and gives them tasks."""

    metric_names: tuple[str, ...] = ()

    def make(self, name: str) -> TaskRobot:
        """Make the robot of a task, which needs OpenGL only when it draws."""
        kind = TASKS[name]
        env: gymnasium.Env[Any, Any] = gymnasium.make(
            kind.robot.id,
            render_mode="rgb_array",
            width=SIZE,
            height=SIZE,
            camera_name="track",  # else the robot runs out of the picture
            max_episode_steps=-1,  # whoever steps knows the horizon
            disable_env_checker=True,
            **kind.options,
        )
        return TaskRobot(env, name)

    def assign(self, env: gymnasium.Env[Any, Any], task: WorldTask) -> None:
        """Give a robot its task, which stays hidden from the observation."""
        assert isinstance(env, TaskRobot)
        env.assign(task.params)
