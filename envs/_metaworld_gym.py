"""Meta-World environments for worker processes. Nothing here may import torch."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from meta_rl.gymnasium_worker import WorldTask


@dataclass(frozen=True)
class MetaworldFamily:
    """Makes Meta-World environments and gives them goals, by Meta-World's own `set_task`.

    Its reset begins every episode alike: for all 50 tasks and both reward versions, an
    environment that has solved other goals repeats a fresh one bit for bit.
    """

    reward_version: str
    goal_sizes: Mapping[str, int]
    """How many of a task's params are the goal; the others pad it."""
    metric_names: tuple[str, ...] = ("success",)

    def make(self, name: str) -> gymnasium.Env[Any, Any]:
        """Make an environment of one of the 50 tasks, which needs OpenGL only when it draws."""
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        from envs._metaworld_camera import Camera

        env: gymnasium.Env[Any, Any] = ALL_V3_ENVIRONMENTS[name](
            reward_function_version=self.reward_version, render_mode="rgb_array"
        )
        env.mujoco_renderer = Camera(env)  # type: ignore[attr-defined]
        return env

    def assign(self, env: gymnasium.Env[Any, Any], task: WorldTask) -> None:
        """Set the goal, which stays hidden from the observation."""
        from metaworld.types import Task

        data = {
            "rand_vec": np.array(task.params[: self.goal_sizes[task.name]]),
            "env_cls": type(env),
            "partially_observable": True,
        }
        env.set_task(Task(env_name=task.name, data=pickle.dumps(data)))  # type: ignore[attr-defined]
