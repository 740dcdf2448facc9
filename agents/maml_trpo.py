"""MAML with a trust-region outer step."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.func import grad_and_value

from agents._maml import MAML, MAMLConfig, Stages
from meta_rl.core.checks import check_at_least
from meta_rl.core.distributions import Distribution
from meta_rl.core.protocols import Surrogate
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params
from meta_rl.learning.inner_loop import score_function_loss
from meta_rl.learning.samples import thin
from meta_rl.learning.trust_region import (
    Product,
    TrustRegionConfig,
    curvature_product,
    ravel,
    trust_region_step,
)


@dataclass(frozen=True)
class Config(MAMLConfig):
    """MAML with a TRPO outer step (Finn et al. 2017, Alg. 3)."""

    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    """The outer step."""
    curvature_stride: int = 1
    """Take the divergence's curvature on one of so many steps of every rollout, at least 1; 1 uses
    all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "curvature_stride")


class MAMLTRPO(MAML):
    """Moves θ to where one adaptation helps most, within a trust region.

    Step sizes that are learned join θ in that step: the region bounds how far the policies after
    adaptation move, and those depend on the step sizes as they do on the initial parameters.
    """

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, config.policy(spec), score_function_loss, device, seed)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """One TRPO step on the return after adaptation (Finn et al. 2017, Alg. 3, line 10)."""
        stages = self.stages(batch)

        def outer_loss(theta: Params) -> tuple[Tensor, dict[int, Distribution]]:
            policies = stages.policies(theta)
            return stages.importance_loss(policies), policies

        gradient, (loss_before, old) = grad_and_value(outer_loss, has_aux=True)(self.theta)

        @torch.no_grad()
        def loss_and_kl(theta: Params) -> tuple[Tensor, Tensor]:
            loss, new = outer_loss(theta)
            return loss, stages.divergence(old, new)

        metrics = self.diagnostics(gradient, stages.episodes[0])
        self.theta, outcome = trust_region_step(
            self.theta,
            ravel(gradient),
            loss_before,
            self.divergence_curvature(stages),
            loss_and_kl,
            self.config.trust_region,
        )
        self.meta_updates += 1
        return metrics | outcome

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the outer step for inspection."""
        stages = self.stages(batch)
        return self.open_surrogate(
            batch, stages, lambda theta: stages.importance_loss(stages.policies(theta))
        )

    def divergence_curvature(self, stages: Stages) -> Product:
        """The Hessian at θ of the mean divergence between the policies after adaptation.

        `curvature_stride` thins the experience that it is taken on, before and after adaptation
        alike; the gradient and the line search always use all of it.
        """
        stride = self.config.curvature_stride
        stages = replace(stages, episodes=[thin(each, stride) for each in stages.episodes])
        tasks = len(stages.episodes[0].obs)

        def fisher(
            policies: dict[int, Distribution], tangents: dict[int, Distribution]
        ) -> dict[int, Distribution]:
            products = {}
            for k, tangent in tangents.items():
                share = stages.weights[k] / tasks
                products[k] = policies[k].fisher(tangent, share * stages.episodes[k].weight, share)
            return products

        return curvature_product(
            stages.policies, fisher, self.theta, self.config.trust_region.damping
        )


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLTRPO:
    """Make the agent with its initial parameters."""
    return MAMLTRPO(config, spec, device, seed)
