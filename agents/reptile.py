"""Reptile: towards where many inner steps lead, without differentiating through them."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents._maml import AdaptationConfig, GradientAdapter, OptimizerStep, Samples, prepare
from meta_rl.errors import UserError
from meta_rl.policy import Params
from meta_rl.ppo import clipped_surrogate
from meta_rl.types import EnvSpec, MetaBatch, Metrics


@dataclass(frozen=True)
class Config(AdaptationConfig):
    """Reptile with policy-gradient or PPO inner steps (Nichol et al. 2018, batched version)."""

    outer_lr: float = 0.5
    """Step size epsilon towards the mean of the adapted parameters, or Adam's."""
    annealing_updates: int = 0
    """Meta-updates over which outer_lr falls linearly to 0; 0 keeps it."""
    outer_optimizer: Literal["sgd", "adam"] = "sgd"
    """Move straight towards that mean, or let Adam take the way there for a gradient."""
    inner_epochs: int = 1
    """Gradient steps on the episodes of each inner step; PPO's clip holds all after the first."""
    clip: float = 0.3
    """How far the probability ratio may gain from moving away from 1 within an inner step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_epochs < 1:
            raise UserError(f"agent.inner_epochs must be at least 1, got {self.inner_epochs}")
        if self.annealing_updates < 0:
            raise UserError(
                f"agent.annealing_updates must be at least 0, got {self.annealing_updates}"
            )
        for name in ("outer_lr", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"agent.{name} must be above 0, got {getattr(self, name)}")


class Reptile(OptimizerStep, GradientAdapter):
    """Moves θ to where every task is near.

    Every rollout gives an inner step, also the one played by the adapted policies: their gradient
    is the first that differs from joint training, so with one adaptation the outer step has two
    inner ones.
    """

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        self.config = config
        optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        make = optimizers[config.outer_optimizer]
        self.optimizer = make(self.theta.values(), lr=config.outer_lr)

    def inner_step(self, phi: Params, samples: Samples, steps: Int[Tensor, "M"]) -> Params:
        """So many gradient steps on one rollout's episodes."""
        for _ in range(self.config.inner_epochs):
            phi = super().inner_step(phi, samples, steps)
        return phi

    def policy_loss(self, phi: Params, samples: Samples) -> Float[Tensor, ""]:
        """PPO's loss, summed over tasks; where φ collected, its gradient is the policy gradient."""
        log_prob = self.policy.batched(phi, samples.obs).log_prob(samples.action)
        ratio = (log_prob - samples.log_prob).exp()
        objective = clipped_surrogate(ratio, samples.advantage, self.config.clip)
        return -(samples.weight * objective).sum()

    @torch.no_grad()
    def meta_update(self, batch: MetaBatch) -> Metrics:
        """θ ← θ + ε (mean of φ over tasks - θ) (Alg. 2): the way to φ is minus a gradient."""
        episodes = [prepare(rollout, self.config) for rollout in batch.rollouts]
        phi = self.adapted(self.theta, episodes)
        gradient = {name: self.theta[name] - phi[name].mean(0) for name in self.theta}
        metrics = self.diagnostics(gradient, episodes)
        (group,) = self.optimizer.param_groups
        group["lr"] = self.outer_step_size()
        self.descend(gradient)
        self.meta_updates += 1
        return metrics | {"outer/step_size": torch.tensor(group["lr"])}

    def outer_step_size(self) -> float:
        """ε of this meta-update."""
        span = self.config.annealing_updates
        left = max(0.0, 1 - self.meta_updates / span) if span else 1.0
        return self.config.outer_lr * left


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> Reptile:
    """Make the agent with its initial parameters."""
    return Reptile(config, spec, device, seed)
