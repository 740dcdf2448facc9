"""MAML with PPO's clipped objective as the outer step."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from agents._maml import GradientAdapter, MAMLConfig, Samples, prepare
from meta_rl.errors import UserError
from meta_rl.policy import Gaussian, Params
from meta_rl.ppo import clipped_surrogate
from meta_rl.protocols import Surrogate
from meta_rl.types import EnvSpec, MetaBatch, Metrics


@dataclass(frozen=True)
class Config(MAMLConfig):
    """MAML with PPO's clipped objective as the outer step (after Rothfuss et al. 2019, §6)."""

    outer_lr: float = 1e-3
    """Step size of Adam in the outer update."""
    epochs: int = 5
    """Outer gradient steps through the inner steps for each meta-batch."""
    clip: float = 0.3
    """How far the probability ratio may gain from moving away from 1."""
    target_kl: float | None = 0.03
    """Take no further epoch once the mean divergence exceeds this, in nats; none never stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1:
            raise UserError(f"agent.epochs must be at least 1, got {self.epochs}")
        for name in ("outer_lr", "clip", "target_kl"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"agent.{name} must be above 0, got {value}")


class MAMLPPO(GradientAdapter):
    """Moves θ by several clipped gradient steps through the adaptation."""

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        self.config = config
        self.optimizer = torch.optim.Adam(self.theta.values(), lr=config.outer_lr)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Several epochs of PPO on the return after adaptation."""
        *supports, query = (prepare(rollout, self.config) for rollout in batch.rollouts)
        tasks = len(query.obs)
        loss = partial(self.outer_loss, supports=supports, query=query)

        def measure(value: Tensor, policy: Gaussian, clipped: Tensor) -> Metrics:
            return {
                "outer/loss_after": value,
                "outer/kl": (query.weight * old.kl(policy)).sum() / tasks,
                "outer/clipped_share": (query.weight * clipped).sum() / tasks,
            }

        metrics: Metrics = {}
        limit = self.config.target_kl
        epochs = 0
        for _ in range(self.config.epochs):
            gradient, (value, (policy, clipped)) = grad_and_value(loss, has_aux=True)(self.theta)
            if epochs == 0:  # still at the θ that collected
                old = policy
                metrics = self.diagnostics(gradient, supports) | {"outer/loss_before": value}
            latest = measure(value, policy, clipped)
            if limit is not None and latest["outer/kl"] > limit:
                break
            for name, parameter in self.theta.items():
                parameter.grad = gradient[name]
            self.optimizer.step()
            epochs += 1
        else:  # the last step has not been measured yet
            with torch.no_grad():
                value, (policy, clipped) = loss(self.theta)
            latest = measure(value, policy, clipped)
        return metrics | latest | {"outer/epochs": torch.tensor(float(epochs))}

    def outer_loss(
        self, theta: Params, supports: Sequence[Samples], query: Samples
    ) -> tuple[Tensor, tuple[Gaussian, Tensor]]:
        """Minus PPO's objective after adaptation, and the adapted policies and what is clipped."""
        policy = self.adapted_policy(theta, supports, query.obs)
        ratio = (policy.log_prob(query.action) - query.log_prob).exp()
        objective = clipped_surrogate(ratio, query.advantage, self.config.clip)
        clipped = ((ratio - 1).abs() > self.config.clip).float()
        return -(query.weight * objective).sum() / len(query.obs), (policy, clipped)

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the outer steps for inspection."""
        return self.open_surrogate(batch, self.outer_loss)

    def state_dict(self) -> dict[str, Any]:
        """Return θ and Adam's moments."""
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore θ and Adam's moments."""
        super().load_state_dict(state)
        self.optimizer = torch.optim.Adam(self.theta.values(), lr=self.config.outer_lr)
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # Adam would keep the tensors


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLPPO:
    """Make the agent with its initial parameters."""
    return MAMLPPO(config, spec, device, seed)
