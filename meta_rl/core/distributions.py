"""Distributions of actions, as data."""

from math import log, pi
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.seeding import standard_normal


class Gaussian(NamedTuple):
    """Independent normal distributions over the action dimensions (a pytree of two tensors)."""

    mean: Float[Tensor, "*B A"]
    log_std: Float[Tensor, "*#B A"]

    def sample(self, generator: torch.Generator | None) -> Float[Tensor, "*B A"]:
        """Draw actions; without a generator, return the mode."""
        if generator is None:
            return self.mean
        mean = self.mean
        noise = standard_normal(mean.shape, generator, mean.device, mean.dtype)
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Joint log-density: the sum over action dimensions."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z**2 - self.log_std - 0.5 * log(2 * pi)).sum(-1)

    def kl(self, other: "Gaussian") -> Float[Tensor, "*B"]:
        """KL(self || other), in nats."""
        ratio = (2 * (self.log_std - other.log_std)).exp()
        shift = ((self.mean - other.mean) * (-other.log_std).exp()) ** 2
        return 0.5 * (ratio + shift - 1 - 2 * (self.log_std - other.log_std)).sum(-1)

    def entropy(self) -> Float[Tensor, "*#B"]:
        """Differential entropy, in nats."""
        return (self.log_std + 0.5 * log(2 * pi) + 0.5).sum(-1)
