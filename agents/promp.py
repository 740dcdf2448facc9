"""ProMP: a meta-gradient of low variance, in several clipped steps near the acting policies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from agents._clipped_maml import ClippedMAML, ClippedMAMLConfig
from agents._maml import Stages, of_tasks
from meta_rl.core.checks import check_above_zero
from meta_rl.core.ranks import Part
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params
from meta_rl.learning.inner_loop import likelihood_ratio_loss, score_function_loss
from meta_rl.learning.ppo import TaskLoss


@dataclass(frozen=True)
class Config(ClippedMAMLConfig):
    """Proximal meta-policy search (Rothfuss et al. 2019, Alg. 1)."""

    target_kl: float | None = None
    """Start no further epoch once the mean KL divergence from the policies that collected exceeds
    this, in nats per step, above 0. `none`: never stop early."""
    inner_kl_coefficient: float = 5e-4
    """Initial weight of the KL penalty (η), above 0. The penalty holds the policy before each inner
    step near the one that collected. Its divergences are logged as outer/kl_stage_0,
    outer/kl_stage_1 and so on."""
    target_inner_kl: float | None = 0.01
    """Target of each divergence in this penalty, in nats per step, above 0. η doubles above 1.5
    times the target and halves below the target divided by 1.5. `none` keeps η constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "inner_kl_coefficient", "target_inner_kl")


class ProMP(ClippedMAML):
    """Also credits steps before adaptation, and stays near the policies that took them."""

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        # The likelihood ratio's curvature credits steps before adaptation. With E-MAML's term they
        # would be credited twice.
        loss = score_function_loss if config.exploration_weight else likelihood_ratio_loss
        super().__init__(config, spec, device, seed, loss)
        self.eta = torch.full((config.adaptation_steps,), config.inner_kl_coefficient).to(device)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Take epochs of steps on J^ProMP (Alg. 1), then adapt η."""
        metrics = super().meta_update(batch)
        inner_kl = [metrics[f"outer/kl_stage_{k}"] for k in range(self.config.adaptation_steps)]
        metrics["outer/kl_coefficient"] = self.eta.mean()
        self.eta = self.adapted_eta(torch.stack(inner_kl))
        return metrics

    def outer_loss(self, stages: Stages) -> TaskLoss:
        """-J^ProMP(θ) = -J^CLIP(θ') + η KL(π_θo, π_θ), with one KL for each inner step."""
        acting = stages.acting_policies(self.theta, stages.all)

        def loss(theta: Params, which: Part | None) -> tuple[Tensor, Metrics]:
            some, old = stages.of(which), of_tasks(acting, which)
            new = some.policies(theta, some.all)
            clipped, measured = some.clipped_loss(old, new, self.config.clip)
            inner_kl = torch.stack([some.moved(old, new, k) for k in some.all[:-1]])
            by_stage = {f"outer/kl_stage_{k}": value for k, value in enumerate(inner_kl)}
            return clipped + (self.eta * inner_kl).mean(), measured | by_stage

        return loss

    def adapted_eta(self, inner_kl: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
        """Return η of the next meta-update, as in PPO's adaptive penalty and the authors' code."""
        target = self.config.target_inner_kl
        if target is None:
            return self.eta
        eta = torch.where(inner_kl > 1.5 * target, 2 * self.eta, self.eta)
        eta = torch.where(inner_kl < target / 1.5, eta / 2, eta)
        return eta.clamp(min=1e-6)  # a zero could never be doubled again

    def state_dict(self) -> dict[str, Any]:
        """Return θ, Adam's moments and η."""
        return super().state_dict() | {"eta": self.eta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore θ, Adam's moments and η."""
        super().load_state_dict(state)
        self.eta = state["eta"].to(self.device)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> ProMP:
    """Make the agent with its initial parameters."""
    return ProMP(config, spec, device, seed)
