"""A softmax policy over choices, by REINFORCE: an agent of discrete actions."""

from dataclasses import dataclass

import torch

from meta_rl.core.spaces import choices
from meta_rl.core.types import Phase
from meta_rl.learning.policy import choice_of


@dataclass(frozen=True)
class Config:
    """One policy-gradient step on each task's logits, from logits that all tasks share."""

    inner_lr: float = 20.0
    """Step size of adaptation."""
    outer_lr: float = 0.5
    """Step size towards the mean of the adapted logits."""


class Softmax:
    copies_share_experience = True
    phases = (Phase(1), Phase(1))

    def __init__(self, config, spec, device):
        self.config, self.choices = config, choices(spec.action_space)
        self.logits = torch.zeros(spec.observation_size, spec.action_size, device=device)

    def begin(self, tasks, copies, training):
        return self.logits.expand(len(tasks), -1, -1)

    def distribution(self, context, timestep):
        return choice_of(timestep.obs @ context, self.choices), context

    def act(self, context, timestep, noise):
        policy, context = self.distribution(context, timestep)
        action = policy.sample(noise)
        return action, policy.log_prob(action), context

    def adapt(self, context, experience):
        logits = context.clone().requires_grad_()
        policy = choice_of(experience.obs @ logits, self.choices)
        surplus = experience.reward - experience.reward.mean((0, 2), keepdim=True)
        gain = (policy.log_prob(experience.action) * surplus).mean((0, 2)).sum()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(gain, logits)
        return context + self.config.inner_lr * slope

    def meta_update(self, batch):
        adapted = self.adapt(self.begin(batch.tasks, 1, True), batch.rollouts[0])
        self.logits = self.logits + self.config.outer_lr * (adapted.mean(0) - self.logits)
        return {"policy/logits": self.logits.norm()}

    def state_dict(self):
        return {"logits": self.logits}

    def load_state_dict(self, state):
        self.logits = state["logits"]


def build(config, spec, device, seed):
    return Softmax(config, spec, device)
