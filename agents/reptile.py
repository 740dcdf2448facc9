"""Reptile: moves θ towards the adapted parameters, without differentiating the adaptation."""

from dataclasses import dataclass
from typing import Literal

import torch

from agents._maml import AdaptationConfig
from agents._policy import PolicyAgent
from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.ranks import mean_over_ranks
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics
from meta_rl.learning.descent import Descent
from meta_rl.learning.inner_loop import InnerLoop, clipped_ratio_loss, scheduled


@dataclass(frozen=True)
class Config(AdaptationConfig):
    """Reptile with policy-gradient or PPO inner steps (Nichol et al. 2018, batched version)."""

    outer_lr: float | None = None
    """Step size towards the mean of the adapted parameters (ε), above 0; with outer_optimizer adam,
    Adam's step size. Without it, 0.5 for sgd and 1e-3 for adam."""
    annealing_updates: int = 0
    """Meta-updates over which outer_lr falls linearly to 0, at least 0. Nothing more is learned
    after that. 0 keeps outer_lr constant."""
    outer_optimizer: Literal["sgd", "adam"] = "sgd"
    """`sgd` moves θ straight towards the mean of the adapted parameters. `adam` treats the
    difference to it as a gradient."""
    inner_epochs: int = 1
    """Gradient steps on the episodes of each inner step, at least 1. PPO's clip limits all steps
    after the first."""
    clip: float = 0.3
    """PPO's clip range within an inner step (ε), above 0: the policy ratio is clipped to
    [1 - ε, 1 + ε]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "inner_epochs")
        check_at_least(0, self, "annealing_updates")
        check_above_zero(self, "outer_lr", "clip")

    @property
    def epsilon(self) -> float:
        """outer_lr, or the default of the optimizer."""
        return self.outer_lr or {"sgd": 0.5, "adam": 1e-3}[self.outer_optimizer]


class Reptile(PolicyAgent):
    """Moves θ to where the adapted parameters of every task are near.

    Every rollout gives an inner step, also the one played by the adapted policies. So with one
    adaptation the outer step has two inner steps. With a single inner step, Reptile would be joint
    training.
    """

    config: Config
    inner: InnerLoop
    descent: Descent

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        policy = config.policy(spec)
        inner = InnerLoop(
            policy,
            clipped_ratio_loss(config.clip),
            scheduled(config.step_size),
            epochs=config.inner_epochs,
        )
        super().__init__(config, policy, device, seed, inner)
        optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        kind = optimizers[config.outer_optimizer]
        self.descent = Descent(kind, self.theta, lr=config.epsilon)

    @torch.no_grad()
    def meta_update(self, batch: MetaBatch) -> Metrics:
        """θ ← θ + ε (mean of φ over tasks - θ) (Alg. 2): the way to φ is minus a gradient."""
        episodes = [self.samples(rollout) for rollout in batch.rollouts]
        phi = self.inner.adapted(self.theta, episodes)
        mean = mean_over_ranks({name: phi[name].mean(0) for name in self.theta})
        gradient = {name: self.theta[name] - mean[name] for name in self.theta}
        metrics = self.diagnostics(gradient, episodes[0])
        epsilon = self.outer_step_size()
        self.descent.step(self.theta, gradient, lr=epsilon)
        self.count(batch)
        return metrics | {"outer/step_size": torch.tensor(epsilon)}

    def outer_step_size(self) -> float:
        """Return ε of this meta-update."""
        span = self.config.annealing_updates
        left = max(0.0, 1 - self.meta_updates / span) if span else 1.0
        return self.config.epsilon * left


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> Reptile:
    """Make the agent with its initial parameters."""
    return Reptile(config, spec, device, seed)
