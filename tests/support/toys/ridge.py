"""Ridge regression towards learned weights: a supervised agent."""

from dataclasses import dataclass

import torch

from meta_rl.core.types import Phase


@dataclass(frozen=True)
class Config:
    """Weights that all tasks begin with; each fits its own by ridge regression towards them."""

    ridge: float = 0.1
    """Weight of staying near the shared weights."""
    outer_lr: float = 0.3
    """Step size towards the mean of the fitted weights."""


class Ridge:
    copies_share_experience = True
    phases = (Phase(1), Phase(1))

    def __init__(self, config, spec, device):
        self.config = config
        self.weights = torch.full((spec.observation_size + 1,), 2.0, device=device)

    def begin(self, tasks, copies, training):
        return self.weights.expand(len(tasks), -1)

    def act(self, context, timestep, noise):
        answer = features(timestep.obs) @ context.unsqueeze(-1)
        return answer, torch.zeros(answer.shape[:2]), context

    def adapt(self, context, experience):
        x = features(experience.inputs).movedim(1, 0).flatten(1, 2)
        y = experience.targets.movedim(1, 0).flatten(1, 2) - x @ context.unsqueeze(-1)
        gram = x.mT @ x + self.config.ridge * torch.eye(x.shape[-1])
        return context + torch.linalg.solve(gram, x.mT @ y).squeeze(-1)

    def meta_update(self, batch):
        support, query = batch.examples
        fitted = self.adapt(self.begin(batch.tasks, 1, True), support)
        step = self.config.outer_lr * (fitted.mean(0) - self.weights)
        self.weights = self.weights + step
        return {"outer/loss": query.metrics["loss"].mean()}

    def state_dict(self):
        return {"weights": self.weights}

    def load_state_dict(self, state):
        self.weights = state["weights"]


def features(x):
    return torch.cat([x, torch.ones_like(x)], dim=-1)


def build(config, spec, device, seed):
    return Ridge(config, spec, device)
