"""Reptile: towards where many inner steps lead, without differentiating through them."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents._maml import AdaptationConfig, GradientAdapter
from agents._policy import OptimizerStep, Samples, prepare
from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params
from meta_rl.learning.ppo import clipped_surrogate


@dataclass(frozen=True)
class Config(AdaptationConfig):
    """Reptile with policy-gradient or PPO inner steps (Nichol et al. 2018, batched version)."""

    outer_lr: float | None = None
    """Step size epsilon towards the mean of the adapted parameters, or Adam's; none means 0.5, or
    1e-3 with Adam."""
    annealing_updates: int = 0
    """Meta-updates over which outer_lr falls linearly to 0, after which nothing more is learned;
    0 keeps it."""
    outer_optimizer: Literal["sgd", "adam"] = "sgd"
    """Move straight towards that mean, or let Adam take the way there for a gradient."""
    inner_epochs: int = 1
    """Gradient steps on the episodes of each inner step; PPO's clip holds all after the first."""
    clip: float = 0.3
    """How far the probability ratio may gain from moving away from 1 within an inner step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "inner_epochs")
        check_at_least(0, self, "annealing_updates")
        check_above_zero(self, "outer_lr", "clip")

    @property
    def epsilon(self) -> float:
        """outer_lr, or what it is by default."""
        return self.outer_lr or {"sgd": 0.5, "adam": 1e-3}[self.outer_optimizer]


class Reptile(OptimizerStep, GradientAdapter):
    """Moves θ to where every task is near.

    Every rollout gives an inner step, also the one played by the adapted policies: their gradient
    is the first that differs from joint training, so with one adaptation the outer step has two
    inner ones.
    """

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        make = optimizers[config.outer_optimizer]
        self.optimizer = make(self.theta.values(), lr=config.epsilon)

    def inner_step(self, phi: Params, samples: Samples, steps: Int[Tensor, "M"]) -> Params:
        """So many gradient steps on one rollout's episodes."""
        for _ in range(self.config.inner_epochs):
            phi = super().inner_step(phi, samples, steps)
        return phi

    def policy_loss(self, phi: Params, samples: Samples) -> Float[Tensor, ""]:
        """PPO's loss, summed over tasks; where φ collected, its gradient is the policy gradient."""
        ratio = samples.log_ratio(self.policy.batched(phi, samples.obs)).exp()
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
        return self.config.epsilon * left


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> Reptile:
    """Make the agent with its initial parameters."""
    return Reptile(config, spec, device, seed)
