"""MAML with a trust-region outer step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.func import grad_and_value

from agents._maml import GradientAdapter, MAMLConfig, Samples, prepare, thin
from meta_rl.errors import UserError
from meta_rl.policy import Gaussian, Params
from meta_rl.protocols import Surrogate
from meta_rl.trust_region import (
    Product,
    TrustRegionConfig,
    curvature_product,
    ravel,
    trust_region_step,
)
from meta_rl.types import EnvSpec, MetaBatch, Metrics


@dataclass(frozen=True)
class Config(MAMLConfig):
    """MAML with a TRPO outer step (Finn et al. 2017, Alg. 3)."""

    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    """The outer step."""
    curvature_stride: int = 1
    """Take the divergence's curvature on one of so many steps of every rollout; 1 uses all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.curvature_stride < 1:
            raise UserError(
                f"agent.curvature_stride must be at least 1, got {self.curvature_stride}"
            )


class MAMLTRPO(GradientAdapter):
    """Moves θ to where one adaptation helps most, within a trust region."""

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        self.config = config

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """One TRPO step on the return after adaptation (Finn et al. 2017, Alg. 3, line 10)."""
        *supports, query = (prepare(rollout, self.config) for rollout in batch.rollouts)
        tasks = len(query.obs)

        outer_loss = partial(self.outer_loss, supports=supports, query=query)
        gradient, (loss_before, old) = grad_and_value(outer_loss, has_aux=True)(self.theta)

        @torch.no_grad()
        def loss_and_kl(theta: Params) -> tuple[Tensor, Tensor]:
            loss, policy = outer_loss(theta)
            return loss, (query.weight * old.kl(policy)).sum() / tasks

        metrics = self.diagnostics(gradient, supports)
        self.theta, outcome = trust_region_step(
            self.theta,
            ravel(gradient),
            loss_before,
            self.divergence_curvature(supports, query),
            loss_and_kl,
            self.config.trust_region,
        )
        return metrics | outcome

    def outer_loss(
        self, theta: Params, supports: Sequence[Samples], query: Samples
    ) -> tuple[Tensor, Gaussian]:
        """Minus the return after adaptation, by importance sampling, and the adapted policies."""
        policy = self.adapted_policy(theta, supports, query.obs)
        ratio = (policy.log_prob(query.action) - query.log_prob).exp()
        return -(query.weight * ratio * query.advantage).sum() / len(query.obs), policy

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the outer step for inspection."""
        return self.open_surrogate(batch, self.outer_loss)

    def divergence_curvature(self, supports: Sequence[Samples], query: Samples) -> Product:
        """The Hessian at θ of the mean divergence between the policies after adaptation.

        `curvature_stride` thins the experience that it is taken on, before and after adaptation
        alike; the gradient and the line search always use all of it.
        """
        stride = self.config.curvature_stride
        supports, query = [thin(samples, stride) for samples in supports], thin(query, stride)
        weight = query.weight / len(query.obs)

        def outputs(theta: Params) -> Gaussian:
            return self.adapted_policy(theta, supports, query.obs)

        def fisher(policy: Gaussian, tangent: Gaussian) -> Gaussian:
            # Of a Gaussian: 1/σ² for the mean and 2 for log σ.
            on_mean = weight.unsqueeze(-1) * tangent.mean * (-2 * policy.log_std).exp()
            return Gaussian(on_mean, 2 * tangent.log_std / len(query.obs))

        return curvature_product(outputs, fisher, self.theta, self.config.trust_region.damping)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLTRPO:
    """Make the agent with its initial parameters."""
    return MAMLTRPO(config, spec, device, seed)
