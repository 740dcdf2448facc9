"""Trust-region steps (Schulman et al. 2015, appendix C): CG, curvature products, line search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.errors import UserError
from meta_rl.core.types import Params

Product: TypeAlias = Callable[[Float[Tensor, "D"]], Float[Tensor, "D"]]


def ravel(params: Params) -> Float[Tensor, "D"]:
    """Join all parameters into one vector."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unravel(vector: Float[Tensor, "D"], like: Params) -> Params:
    """Cut a vector into parameters of the given shapes."""
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    return {name: piece.view_as(like[name]) for name, piece in zip(like, pieces, strict=True)}


def conjugate_gradient(
    product: Product, b: Float[Tensor, "D"], iterations: int, tolerance: float = 1e-10
) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Solve A x = b for a symmetric positive definite A given as a product.

    Args:
        iterations: Largest number of iterations.
        tolerance: Stop once the squared residual is below this share of the squared b: further
            steps would only add float32's rounding, whatever the loss's scale.

    Returns:
        x, and A x, which follows from the residual without another product.
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    squared = residual @ residual
    enough = tolerance * squared
    for _ in range(iterations):
        if squared <= enough:
            break
        image = product(direction)
        step = squared / (direction @ image)
        x = x + step * direction
        residual = residual - step * image
        previous, squared = squared, residual @ residual
        direction = residual + squared / previous * direction
    return x, b - residual


@dataclass(frozen=True)
class TrustRegionConfig:
    """Settings of a TRPO step."""

    max_kl: float = 0.01
    """Trust region of the outer step (δ), above 0: the largest mean KL divergence over tasks, in
    nats per step."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations for the step's direction, at least 1."""
    damping: float = 1e-5
    """Constant added to the diagonal of the curvature matrix, at least 0."""
    backtracks: int = 15
    """Largest number of step lengths that the line search tries, at least 1. The first is the full
    step."""
    backtrack_ratio: float = 0.8
    """Factor by which the line search shrinks the step, between 0 and 1."""

    def __post_init__(self) -> None:
        where = "agent.trust_region"
        check_at_least(1, self, "cg_iterations", "backtracks", where=where)
        check_above_zero(self, "max_kl", where=where)
        check_at_least(0, self, "damping", where=where)
        if not 0 < self.backtrack_ratio < 1:
            raise UserError(
                f"{where}.backtrack_ratio must lie between 0 and 1, got {self.backtrack_ratio}"
            )


def trust_region_step(
    theta: Params,
    gradient: Float[Tensor, "D"],
    loss_before: Float[Tensor, ""],
    product: Product,
    loss_and_kl: Callable[[Params], tuple[Tensor, Tensor]],
    config: TrustRegionConfig,
) -> tuple[Params, dict[str, Tensor]]:
    """Return θ moved to lower the loss by a step of at most `max_kl`, or the same θ.

    The line search accepts the first step that is finite, lowers the loss and keeps the
    divergence. If none does, the same θ object is returned.
    """
    direction, image = conjugate_gradient(product, gradient, config.cg_iterations)
    curvature = direction @ image
    # ½ β² dᵀ H d = δ: the longest step that the quadratic model of the divergence allows.
    longest = (2 * config.max_kl / curvature).sqrt() * direction
    vector = ravel(theta)
    accepted = torch.zeros(())
    after, loss_after, kl_after = theta, loss_before, torch.zeros_like(loss_before)
    shrinkings = config.backtracks
    if torch.isfinite(longest).all():
        for shrinkings in range(config.backtracks):
            candidate = unravel(vector - config.backtrack_ratio**shrinkings * longest, theta)
            loss, kl = loss_and_kl(candidate)
            finite = torch.isfinite(loss) & torch.isfinite(kl)
            if finite and loss < loss_before and kl <= config.max_kl:
                after, loss_after, kl_after = candidate, loss, kl
                accepted = torch.ones(())
                break
    return after, {
        "outer/loss_before": loss_before,
        "outer/loss_after": loss_after,
        "outer/kl": kl_after,
        "outer/accepted": accepted,
        "outer/shrinkings": torch.tensor(float(shrinkings)),
    }
