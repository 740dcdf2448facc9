"""A Gaussian posterior of a task, with a factor for each step of experience."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.core.distributions import Gaussian
from meta_rl.learning.networks import mlp


class ContextEncoder(nn.Module):
    """Gives a Gaussian factor Ψ(z|c) for each step c of a task's posterior.

    q(z|c₁...c_N) ∝ p(z) Π Ψ(z|c_n) (Rakelly et al. 2019, eq. 2), where p(z) is the standard normal.
    The product does not depend on the order of the steps. Without any step it is the prior. The
    authors leave the prior out.

    Args:
        step_size: Numbers of a step (C).
        latent_size: Dimensions of z (Z).
    """

    def __init__(self, step_size: int, hidden_sizes: Sequence[int], latent_size: int) -> None:
        super().__init__()
        self.layers = mlp(step_size, hidden_sizes, 2 * latent_size)

    def forward(
        self, steps: Float[Tensor, "M B C"], valid: Bool[Tensor, "M B"]
    ) -> Float[Tensor, "M 2 Z"]:
        """Return the sum of a task's factors, in natural parameters."""
        mean, raw = self.layers(steps).chunk(2, dim=-1)
        precision = valid.unsqueeze(-1) / nn.functional.softplus(raw).clamp(min=1e-7)
        return torch.stack([(precision * mean).sum(1), precision.sum(1)], dim=1)


def prior(tasks: int, latent_size: int, device: torch.device) -> Float[Tensor, "M 2 Z"]:
    """Return the natural parameters of standard normals: precision × mean, and precision."""
    return torch.tensor([[0.0], [1.0]], device=device).repeat(tasks, 1, latent_size)


def gaussian(natural: Float[Tensor, "M 2 Z"]) -> Gaussian:
    """Return the Gaussian of natural parameters."""
    moment, precision = natural.unbind(1)
    return Gaussian(moment / precision, -0.5 * precision.log())
