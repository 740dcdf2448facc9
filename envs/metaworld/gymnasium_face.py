"""Meta-World environments for worker processes. Nothing here may import torch."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from envs.metaworld.welds import mend_welds
from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.worker import WorldTask

MOST_DRAWS = 100
"""Times that a reset may draw its goal; one that was set needs one."""


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

        from envs.metaworld.camera import Camera

        mend_welds()
        env: gymnasium.Env[Any, Any] = ALL_V3_ENVIRONMENTS[name](
            reward_function_version=self.reward_version, render_mode="rgb_array"
        )
        _refuse_endless_reset(env, name)
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


def _refuse_endless_reset(env: Any, name: str) -> None:
    """Let an environment refuse a goal that breaks Meta-World's own rules.

    Its reset draws the goal again as long as, say, object and target are too near each other; a
    goal that `set_task` has set comes out the same each time.
    """
    reset_model, draw = env.reset_model, env._get_state_rand_vec
    drawn = 0

    def reset_counting() -> Any:
        nonlocal drawn
        drawn = 0
        return reset_model()

    def draw_counted() -> Any:
        nonlocal drawn
        drawn += 1
        goal = draw()
        if drawn > MOST_DRAWS:
            raise UserError(
                f"Meta-World's {name} refuses the goal {goal.tolist()}: some of its positions are "
                f"nearer to each other than the task allows; move them apart"
            )
        return goal

    env.reset_model, env._get_state_rand_vec = reset_counting, draw_counted
