"""MAML with PPO's clipped objective as the outer step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value

from agents._maml import MAML, MAMLConfig
from agents._policy import OptimizerStep, Samples, prepare
from meta_rl.core.distributions import Distribution
from meta_rl.core.protocols import Surrogate
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params
from meta_rl.learning.ppo import PPOConfig, clipped_loss

OuterLoss: TypeAlias = Callable[[Params], tuple[Tensor, Metrics]]
"""θ ↦ the loss of an epoch, and what is measured beside it."""


@dataclass(frozen=True)
class Config(MAMLConfig, PPOConfig):
    """MAML with PPO's clipped objective as the outer step (after Rothfuss et al. 2019, §6)."""

    epochs: int = 5
    """Outer gradient steps through the inner steps for each meta-batch."""
    clip: float = 0.3
    """How far the probability ratio may gain from moving away from 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        PPOConfig.__post_init__(self)


class MAMLPPO(OptimizerStep, MAML):
    """Moves θ by several clipped gradient steps through the adaptation."""

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        self.optimizer = torch.optim.Adam(self.theta.values(), lr=config.outer_lr)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Several epochs of PPO on the return after adaptation."""
        episodes = [prepare(rollout, self.config) for rollout in batch.rollouts]
        return self.take_epochs(self.outer_loss(episodes), episodes)

    def outer_loss(self, episodes: Sequence[Samples]) -> OuterLoss:
        """What every epoch descends, on the same episodes."""
        weights = self.stage_weights()
        old = self.acting_policies(episodes, weights)

        def loss(theta: Params) -> tuple[Tensor, Metrics]:
            return self.clipped_loss(old, self.policies(theta, episodes, weights), episodes)

        return loss

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the outer steps for inspection."""
        episodes = [prepare(rollout, self.config) for rollout in batch.rollouts]
        return self.open_surrogate(batch, episodes, self.outer_loss(episodes))

    def clipped_loss(
        self,
        old: Mapping[int, Distribution],
        new: Mapping[int, Distribution],
        episodes: Sequence[Samples],
    ) -> tuple[Tensor, Metrics]:
        """Minus PPO's objective after adaptation, and what tells how far the policies moved."""
        loss = clipped_share = torch.zeros((), device=self.device)
        for k, share in self.stage_weights().items():
            samples = episodes[k]
            weight = samples.weight / len(samples.weight)
            log_ratio = samples.log_ratio(new[k])
            each, measured = clipped_loss(log_ratio, samples.advantage, weight, self.config.clip)
            loss = loss + share * each
            clipped_share = clipped_share + share * measured["outer/clipped_share"]
        return loss, {
            "outer/kl": self.divergence(old, new, episodes),
            "outer/clipped_share": clipped_share,
        }

    def take_epochs(self, loss: OuterLoss, episodes: Sequence[Samples]) -> Metrics:
        """Descend a loss for some epochs, or until the target divergence."""
        limit = self.config.target_kl
        metrics: Metrics = {}
        measured: Metrics
        epochs = 0
        for _ in range(self.config.epochs):
            gradient, (value, measured) = grad_and_value(loss, has_aux=True)(self.theta)
            if epochs == 0:  # still at the θ that collected
                metrics = self.diagnostics(gradient, episodes) | {"outer/loss_before": value}
            if limit is not None and measured["outer/kl"] > limit:
                break
            self.descend(gradient)
            epochs += 1
        else:  # the last step has not been measured yet
            with torch.no_grad():
                value, measured = loss(self.theta)
        self.meta_updates += 1
        return (
            metrics
            | measured
            | {"outer/loss_after": value, "outer/epochs": torch.tensor(float(epochs))}
        )


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLPPO:
    """Make the agent with its initial parameters."""
    return MAMLPPO(config, spec, device, seed)
