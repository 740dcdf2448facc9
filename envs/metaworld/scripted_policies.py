"""Meta-World's scripted policies as the family's expert."""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from envs.metaworld.config import TASK_NAMES
from envs.metaworld.gymnasium_face import MetaworldFamily
from meta_rl.core.errors import UserError
from meta_rl.core.types import Tasks
from meta_rl.rollouts.gymnasium.worker import WorldTask

GOAL = slice(36, 39)
"""Where in an observation the goal would be, if it were shown."""


class MetaworldExpert:
    """Meta-World's own policy for each class, with the goal shown to it.

    None of the policies has a memory, or any noise.
    """

    def knowledge(self, tasks: Tasks) -> Float[Tensor, "M 4"]:
        """Return each task's class, as its place in `TASK_NAMES`, and its goal in metres.

        Where the goal is, metaworld's environment tells after a reset: in many classes it is not
        a part of the task's parameters.
        """
        goal_sizes: dict[str, int] = {}
        family = MetaworldFamily("v2", goal_sizes)
        briefs = {}
        for name in dict.fromkeys(tasks.names):
            env: Any = family.make(name)
            goal_sizes[name] = len(env._random_reset_space.low)
            for task in tasks:
                if task.name == name:
                    family.assign(env, WorldTask(name, task.index, task.params))
                    env.reset()
                    briefs[task.label] = [TASK_NAMES.index(name), *env._get_pos_goal()]
            env.close()
        return torch.tensor([briefs[task.label] for task in tasks], dtype=torch.float32)

    def act(self, knowledge: Float[Tensor, "M 4"], obs: Float[Tensor, "M N O"]) -> Tensor:
        """Return each policy's action within its bounds."""
        from metaworld.policies import ENV_POLICY_MAP

        if torch.compiler.is_exporting():
            raise UserError(
                "Meta-World's scripted policies are Python code, not tensors, so they cannot be "
                "exported; take an agent that learns"
            )
        seen = obs.cpu().double().numpy().copy()
        actions = np.zeros((*seen.shape[:2], 4))
        for m, (number, *goal) in enumerate(knowledge.tolist()):
            make_policy: Any = ENV_POLICY_MAP[TASK_NAMES[int(number)]]
            policy = make_policy()
            seen[m, :, GOAL] = goal
            with warnings.catch_warnings(action="ignore"):
                actions[m] = [policy.get_action(each) for each in seen[m]]
        return torch.from_numpy(actions.clip(-1, 1)).to(obs)
