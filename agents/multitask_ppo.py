"""One policy for all tasks, trained by PPO: what can be had without adaptation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from agents._maml import OptimizerStep, PolicyConfig, Samples, prepare
from meta_rl.errors import UserError
from meta_rl.policy import Params, for_each_task, from_by_task
from meta_rl.ppo import clipped_surrogate, run_epochs
from meta_rl.protocols import Surrogate
from meta_rl.seeding import make_generator
from meta_rl.trust_region import ravel
from meta_rl.types import EnvSpec, MetaBatch, Metrics, Rollout, map_tensors


@dataclass(frozen=True)
class Config(PolicyConfig):
    """Control: one policy for all tasks by PPO (Schulman et al. 2017), which never adapts."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    epochs: int = 10
    """Passes over each meta-batch."""
    minibatches: int = 4
    """Parts that the steps of a meta-batch are split into, each with some of every task."""
    clip: float = 0.2
    """How far the probability ratio may gain from moving away from 1."""
    target_kl: float | None = 0.03
    """Take no further epoch once the mean divergence exceeds this, in nats; none never stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise UserError(f"agent.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip", "target_kl"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"agent.{name} must be above 0, got {value}")


class MultitaskPPO(OptimizerStep):
    """Moves θ to where it does best on all tasks at once."""

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        self.config = config
        self.optimizer = torch.optim.Adam(self.theta.values(), lr=config.learning_rate)
        self.generator = make_generator(seed, "update")

    def adapt(self, context: dict[str, Any], rollout: Rollout) -> dict[str, Any]:
        """Learn nothing."""
        return context

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Epochs of clipped policy gradients on minibatches."""
        (rollout,) = batch.rollouts
        samples = prepare(rollout, self.config)
        config = self.config
        metrics = run_epochs(
            lambda which: self.step(self.some(samples, which.to(self.device))),
            samples.obs.shape[1],
            config.epochs,
            config.minibatches,
            config.target_kl,
            self.generator,
        )
        self.meta_updates += 1
        return metrics | {"policy/std": self.theta["log_std"].exp().mean()}

    def some(self, samples: Samples, which: Tensor) -> Samples:
        """Return some of every task's steps."""
        return map_tensors(lambda column: column[:, which], samples)

    def step(self, samples: Samples) -> Metrics:
        """One Adam step on a minibatch."""
        gradient, metrics = grad(self.loss, has_aux=True)(self.theta, samples)
        self.descend(gradient)
        return metrics | {"outer/gradient_norm": ravel(gradient).norm()}

    def loss(self, theta: Params, samples: Samples) -> tuple[Tensor, Metrics]:
        """Minus PPO's objective, a mean over the steps, and what tells how far the policy moved."""
        policy = self.policy.batched(for_each_task(theta, len(samples.obs)), samples.obs)
        log_ratio = policy.log_prob(samples.action) - samples.log_prob
        ratio = log_ratio.exp()
        weight = samples.weight / samples.weight.sum()
        loss = -(weight * clipped_surrogate(ratio, samples.advantage, self.config.clip)).sum()
        clipped = (ratio - 1).abs() > self.config.clip
        return loss, {
            "outer/loss": loss.detach(),
            "outer/kl": (weight * (ratio - 1 - log_ratio)).sum().detach(),  # as in rl2_ppo
            "outer/clipped_share": (weight * clipped).sum(),
        }

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the first epoch, on all steps at once, for inspection."""
        (rollout,) = batch.rollouts
        samples = prepare(rollout, self.config)

        def log_ratio(theta: Params) -> Tensor:
            policy = self.policy.batched(for_each_task(theta, len(samples.obs)), samples.obs)
            return from_by_task(policy.log_prob(samples.action) - samples.log_prob, samples.copies)

        return Surrogate(
            theta=self.theta,
            loss=lambda theta: self.loss(theta, samples)[0],
            log_ratio=log_ratio,
            advantage=from_by_task(samples.advantage, samples.copies),
            rollout=rollout,
            gamma=self.config.gamma,
            across_episodes=False,
            approximation=None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return θ, Adam's moments and the shuffling's state."""
        return super().state_dict() | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"].cpu())


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MultitaskPPO:
    """Make the agent with its initial parameters."""
    return MultitaskPPO(config, spec, device, seed)
