"""Counts in its context what each arm has earned: an agent that writes where it acts."""

from dataclasses import dataclass

import torch

from meta_rl.core.distributions import one_hot
from meta_rl.core.types import Phase


@dataclass(frozen=True)
class Config:
    """Upper confidence bounds over the arms under each lamp; each copy counts on its own."""

    bonus: float = 2.0
    """Weight of not having tried an arm, at first; it shrinks with every meta-update."""


class Counting:
    copies_share_experience = False
    phases = (Phase(1), Phase(2), Phase(1))

    def __init__(self, config, spec, device):
        self.spec = spec
        self.bonus = torch.tensor(config.bonus, device=device)

    def begin(self, tasks, copies, training):
        shape = (len(tasks), copies, self.spec.observation_size, self.spec.action_size)
        last = torch.zeros(len(tasks), copies, self.spec.observation_size)
        return {"pulls": torch.zeros(shape), "earned": torch.zeros(shape), "last_obs": last}

    def act(self, context, timestep, noise):
        pulls, earned = context["pulls"], context["earned"]
        # What was earned last goes to the arm that was pulled under the lamp before.
        told = timestep.prev_reward * timestep.valid
        cell = context["last_obs"].unsqueeze(-1) * timestep.prev_action.unsqueeze(-2)
        earned += cell * told.view(*told.shape, 1, 1)
        value = earned / pulls.clamp(min=1) + self.bonus / (1 + pulls)
        action = one_hot(torch.einsum("mno,mnoa->mna", timestep.obs, value))
        moved = timestep.obs.unsqueeze(-1) * action.unsqueeze(-2)
        pulls += moved * timestep.valid.view(*told.shape, 1, 1)
        context["last_obs"].copy_(timestep.obs)
        return action, torch.zeros(action.shape[:2]), context

    def adapt(self, context, experience):
        return context

    def meta_update(self, batch):
        self.bonus = self.bonus * 0.9
        return {"policy/bonus": self.bonus}

    def state_dict(self):
        return {"bonus": self.bonus}

    def load_state_dict(self, state):
        self.bonus = state["bonus"]


def build(config, spec, device, seed):
    return Counting(config, spec, device)
