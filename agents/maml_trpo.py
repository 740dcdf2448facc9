"""MAML with a trust-region outer step."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from agents._maml import MAML, MAMLConfig, Stages
from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.distributions import Distribution
from meta_rl.core.protocols import Surrogate
from meta_rl.core.ranks import sum_over_ranks
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params
from meta_rl.learning.differentiation import grad_and_value
from meta_rl.learning.inner_loop import score_function_loss
from meta_rl.learning.linearization import Linearization, LinearPolicy
from meta_rl.learning.samples import thin
from meta_rl.learning.trust_region import (
    Product,
    TrustRegionConfig,
    ravel,
    trust_region_step,
    unravel,
)


@dataclass(frozen=True)
class Config(MAMLConfig):
    """MAML with a TRPO outer step (Finn et al. 2017, Alg. 3)."""

    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    """Settings of the TRPO outer step."""
    outer_steps: int = 1
    """Outer steps on each meta-batch, at least 1. Steps after the first reuse its episodes with
    importance weights."""
    target_kl: float | None = 0.05
    """Take no further step on a meta-batch once the mean KL divergence from the policies that
    collected exceeds this, in nats per step, above 0. `none`: never stop early."""
    curvature_stride: int = 1
    """Stride of the time steps that the divergence's curvature is computed on, at least 1; 1 uses
    all. With fewer steps, inner gradients are noisier and outer steps become somewhat shorter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "curvature_stride", "outer_steps")
        check_above_zero(self, "target_kl")


def outer_loss(theta: Params, stages: Stages) -> tuple[Tensor, dict[int, Distribution]]:
    """Return minus the return after adaptation (this rank's part), and the adapted policies."""
    policies = stages.policies(theta)
    return stages.importance_loss(policies), policies


class MAMLTRPO(MAML):
    """Moves θ to where one adaptation helps most, within a trust region.

    Learned step sizes are a part of θ here, too. The region bounds how far the policies after
    adaptation move, and these depend on the step sizes as on the initial parameters.
    """

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, config.policy(spec), score_function_loss, device, seed)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Take TRPO steps on the return after adaptation (Finn et al. 2017, Alg. 3, line 10).

        Steps after the first go on from where the policies are now, with the same episodes.
        """
        stages = self.stages(batch)
        metrics: Metrics = {}
        acting: dict[int, Distribution] = {}
        steps = 0
        for _ in range(self.config.outer_steps):
            gradient, loss, old = self.outer_gradient(stages)
            acting = acting or old
            metrics = metrics or self.diagnostics(gradient, stages.episodes[0])
            if steps > 0 and self.too_far(sum_over_ranks(stages.divergence(acting, old))):
                break
            outcome = self.take_step(stages, gradient, loss, old)
            metrics = outcome | metrics | {"outer/loss_after": outcome["outer/loss_after"]}
            if not outcome["outer/accepted"]:
                break
            steps += 1
        if steps > 1:
            metrics["outer/kl"] = self.moved(stages, acting)
        self.count(batch)
        return metrics | {"outer/steps": torch.tensor(float(steps))}

    def outer_gradient(self, stages: Stages) -> tuple[Params, Tensor, dict[int, Distribution]]:
        """Return the outer loss's gradient, the loss, and this rank's policies after adaptation."""
        found = [
            grad_and_value(partial(outer_loss, stages=part), self.theta) for part in stages.parts()
        ]
        gradients, losses, policies = zip(*found, strict=True)
        gradient = {
            name: torch.stack([each[name] for each in gradients]).sum(0) for name in self.theta
        }
        gradient, loss = sum_over_ranks((gradient, torch.stack(losses).sum()))
        return gradient, loss, pytree.tree_map(lambda *each: torch.cat(each), *policies)

    def too_far(self, divergence: Tensor) -> bool:
        """Return whether the policies have moved more than `target_kl` from those that played."""
        limit = self.config.target_kl
        return limit is not None and bool(divergence > limit)

    @torch.no_grad()
    def moved(self, stages: Stages, acting: dict[int, Distribution]) -> Tensor:
        """Return the mean KL divergence from the policies that played, in nats per step."""
        return sum_over_ranks(stages.divergence(acting, stages.policies(self.theta)))

    def take_step(
        self, stages: Stages, gradient: Params, loss: Tensor, old: dict[int, Distribution]
    ) -> Metrics:
        """Move θ within the trust region around the present policies."""

        @torch.no_grad()
        def loss_and_kl(theta: Params) -> tuple[Tensor, Tensor]:
            loss, new = outer_loss(theta, stages)
            return sum_over_ranks((loss, stages.divergence(old, new)))

        self.theta, outcome = trust_region_step(
            self.theta,
            ravel(gradient),
            loss,
            self.divergence_curvature(stages),
            loss_and_kl,
            self.config.trust_region,
        )
        return outcome

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the outer step for inspection."""
        stages = self.stages(batch)
        return self.open_surrogate(batch, stages, lambda theta: outer_loss(theta, stages)[0])

    def divergence_curvature(self, stages: Stages) -> Product:
        """Return products with the Hessian at θ of the mean divergence after adaptation.

        `curvature_stride` thins its experience, before and after adaptation alike. The gradient
        and the line search always use all of it.
        """
        stride = self.config.curvature_stride
        thinned = [thin(each, stride) for each in stages.episodes]
        tasks, damping = len(thinned[0].obs), self.config.trust_region.damping
        adaptation = Linearization(self.inner, self.theta, thinned[:-1], stages.first_order)
        policies = {
            k: LinearPolicy(self.policy, adaptation.stages[k], thinned[k].obs)
            for k in stages.counted
        }

        @torch.no_grad()
        def product(vector: Tensor) -> Tensor:
            moved = adaptation.push(unravel(vector, self.theta))
            back = {}
            for k, policy in policies.items():
                share = stages.share * stages.counted[k] / tasks
                tangent = policy.push(moved[k])
                back[k] = policy.pull(
                    policy.distribution.fisher(tangent, share * thinned[k].weight, share)
                )
            return sum_over_ranks(ravel(adaptation.pull(back))) + damping * vector

        return product


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLTRPO:
    """Make the agent with its initial parameters."""
    return MAMLTRPO(config, spec, device, seed)
