"""Distributions of actions, as data: each is a pytree of tensors, so it goes through `torch.func`.

`fisher` serves trust regions: it multiplies a tangent of the distribution's own parameters by
their Fisher information.
"""

from math import log, pi, sqrt
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.seeding import Noise

DistributionT = TypeVar("DistributionT", bound="Distribution")


@runtime_checkable
class Distribution(Protocol):
    """What an agent draws actions from, one for each row of a batch."""

    @property
    def mode(self) -> Float[Tensor, "*B A"]:
        """The most likely action."""
        ...

    def sample(self, noise: Noise | None) -> Float[Tensor, "*B A"]:
        """Draw actions; without noise, return the mode."""
        ...

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Joint log-density or log-probability."""
        ...

    def kl(self: DistributionT, other: DistributionT) -> Float[Tensor, "*B"]:
        """KL(self || other), in nats."""
        ...

    def entropy(self) -> Float[Tensor, "*#B"]:
        """Entropy, of densities the differential one, in nats."""
        ...

    def fisher(
        self: DistributionT,
        tangent: DistributionT,
        weight: Float[Tensor, "*B"],
        total: float,
    ) -> DistributionT:
        """Return the weighted Fisher information of the parameters times a tangent of them.

        Args:
            weight: Of each row.
            total: Sum of the weights of the rows that share a parameter, where one is shared.
        """
        ...


class Gaussian(NamedTuple):
    """Independent normal distributions over the action dimensions."""

    mean: Float[Tensor, "*B A"]
    log_std: Float[Tensor, "*#B A"]

    @property
    def mode(self) -> Float[Tensor, "*B A"]:
        """The mean."""
        return self.mean

    def sample(self, noise: Noise | None) -> Float[Tensor, "*B A"]:
        """Draw actions; without noise, return the mean."""
        if noise is None:
            return self.mean
        return self.mean + self.log_std.exp() * noise.normal(self.mean.shape, self.mean.dtype)

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

    def fisher(self, tangent: "Gaussian", weight: Float[Tensor, "*B"], total: float) -> "Gaussian":
        """1/σ² for the mean, which each row has, and 2 for log σ, which rows may share."""
        on_mean = weight.unsqueeze(-1) * tangent.mean * (-2 * self.log_std).exp()
        shared = tangent.log_std.shape != tangent.mean.shape
        on_log_std = 2 * (total if shared else weight.unsqueeze(-1)) * tangent.log_std
        return Gaussian(on_mean, on_log_std)


QUADRATURE_NODES = 32
"""Nodes of Gauss-Hermite quadrature; error below 1e-3 nats a dimension up to σ = 2."""


class TanhGaussian(NamedTuple):
    """A Gaussian u squashed between bounds, a = centre + scale · tanh u (Haarnoja et al. 2018, C).

    `mean` and `log_std` are of u. Maps of u that lose nothing leave divergences as they are, so KL
    and Fisher information are those of the Gaussian.
    """

    mean: Float[Tensor, "*B A"]
    log_std: Float[Tensor, "*#B A"]
    low: Float[Tensor, "A"]
    high: Float[Tensor, "A"]

    @property
    def gaussian(self) -> Gaussian:
        """The distribution of u."""
        return Gaussian(self.mean, self.log_std)

    @property
    def mode(self) -> Float[Tensor, "*B A"]:
        """The squashed mean: the median, since the most likely action may lie at a bound."""
        return self.squashed(self.mean)

    def squashed(self, u: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """Return the action that u is squashed to."""
        return self.low + 0.5 * (self.high - self.low) * (1 + u.tanh())

    def sample(self, noise: Noise | None) -> Float[Tensor, "*B A"]:
        """Draw actions; without noise, return the mode."""
        return self.squashed(self.gaussian.sample(noise))

    def sample_with_log_prob(
        self, noise: Noise | None
    ) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B"]]:
        """Draw actions with their log-density, both differentiable in the parameters."""
        u = self.gaussian.sample(noise)
        return self.squashed(u), self.gaussian.log_prob(u) - self._log_slope(u).sum(-1)

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Joint log-density; an action at a bound counts as just inside of it."""
        unit = 2 * (action - self.low) / (self.high - self.low) - 1
        inside = 1 - torch.finfo(unit.dtype).eps
        u = unit.clamp(-inside, inside).atanh()
        return self.gaussian.log_prob(u) - self._log_slope(u).sum(-1)

    def kl(self, other: "TanhGaussian") -> Float[Tensor, "*B"]:
        """KL(self || other), in nats, between the same bounds."""
        # In double precision, since single leaves nothing but rounding of policies that are close.
        ours, theirs = (
            Gaussian(each.mean.double(), each.log_std.double()) for each in (self, other)
        )
        return ours.kl(theirs).to(self.mean.dtype)

    def entropy(self) -> Float[Tensor, "*B"]:
        """Differential entropy, in nats: H(u) + E[log da/du], by Gauss-Hermite quadrature."""
        nodes, weights = (
            torch.tensor(row, dtype=self.mean.dtype, device=self.mean.device)
            for row in np.polynomial.hermite.hermgauss(QUADRATURE_NODES)
        )
        spread = sqrt(2) * self.log_std.exp().unsqueeze(-1)
        slope = self._log_slope((self.mean.unsqueeze(-1) + spread * nodes).movedim(-1, 0))
        expected = torch.einsum("k,k...->...", weights, slope) / sqrt(pi)
        return self.gaussian.entropy() + expected.sum(-1)

    def fisher(
        self, tangent: "TanhGaussian", weight: Float[Tensor, "*B"], total: float
    ) -> "TanhGaussian":
        """Those of the Gaussian; the bounds are no parameters."""
        product = self.gaussian.fisher(tangent.gaussian, weight, total)
        return TanhGaussian(*product, torch.zeros_like(self.low), torch.zeros_like(self.high))

    def _log_slope(self, u: Float[Tensor, "*K A"]) -> Float[Tensor, "*K A"]:
        """Log da/du, where log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)) loses no digits."""
        softplus = torch.nn.functional.softplus(-2 * u)
        return (0.5 * (self.high - self.low)).log() + 2 * (log(2) - u - softplus)


class Categorical(NamedTuple):
    """One choice of K options; an action is one-hot."""

    logits: Float[Tensor, "*B K"]

    @property
    def mode(self) -> Float[Tensor, "*B K"]:
        """The most likely option."""
        return one_hot(self.logits)

    def sample(self, noise: Noise | None) -> Float[Tensor, "*B K"]:
        """Draw options by the Gumbel-max trick; without noise, return the most likely ones."""
        if noise is None:
            return self.mode
        return self.chosen_by(noise.uniform(self.logits.shape, self.logits.dtype))

    def chosen_by(self, uniform: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
        """Return the options that numbers uniform in [0, 1) draw; equal ones draw the mode."""
        uniform = uniform.clamp(1e-30, 1 - 1e-7)
        return one_hot(self.logits - (-uniform.log()).log())

    def log_prob(self, action: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
        """Log-probability of the chosen options."""
        return (action * self.logits.log_softmax(-1)).sum(-1)

    def kl(self, other: "Categorical") -> Float[Tensor, "*B"]:
        """KL(self || other), in nats."""
        log_p = self.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - other.logits.log_softmax(-1))).sum(-1)

    def entropy(self) -> Float[Tensor, "*B"]:
        """Entropy, in nats."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def fisher(
        self, tangent: "Categorical", weight: Float[Tensor, "*B"], total: float
    ) -> "Categorical":
        """diag(p) - p pᵀ for the logits."""
        p = self.logits.softmax(-1)
        centred = tangent.logits - (p * tangent.logits).sum(-1, keepdim=True)
        return Categorical(weight.unsqueeze(-1) * p * centred)


class Product(NamedTuple):
    """Independent choices, each of its own options; an action is their one-hots side by side."""

    parts: tuple[Categorical, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of options of each choice."""
        return [part.logits.shape[-1] for part in self.parts]

    @property
    def mode(self) -> Float[Tensor, "*B A"]:
        """The most likely option of each choice."""
        return torch.cat([part.mode for part in self.parts], dim=-1)

    def sample(self, noise: Noise | None) -> Float[Tensor, "*B A"]:
        """Draw each choice; without noise, return the most likely ones."""
        if noise is None:
            return self.mode
        # One draw for all choices: given noise then has a number for each option.
        logits = torch.cat([part.logits for part in self.parts], dim=-1)
        uniform = noise.uniform(logits.shape, logits.dtype)
        pieces = torch.split(uniform, self.sizes, dim=-1)
        pairs = zip(self.parts, pieces, strict=True)
        return torch.cat([part.chosen_by(piece) for part, piece in pairs], dim=-1)

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Joint log-probability: the sum over the choices."""
        pieces = torch.split(action, self.sizes, dim=-1)
        pairs = zip(self.parts, pieces, strict=True)
        return torch.stack([part.log_prob(piece) for part, piece in pairs]).sum(0)

    def kl(self, other: "Product") -> Float[Tensor, "*B"]:
        """KL(self || other), in nats."""
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.stack([ours.kl(theirs) for ours, theirs in pairs]).sum(0)

    def entropy(self) -> Float[Tensor, "*B"]:
        """Entropy, in nats."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def fisher(self, tangent: "Product", weight: Float[Tensor, "*B"], total: float) -> "Product":
        """Each choice's own: they are independent."""
        pairs = zip(self.parts, tangent.parts, strict=True)
        return Product(tuple(part.fisher(along, weight, total) for part, along in pairs))


def one_hot(scores: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Return 1 where a row is largest, at the first place if at several, and 0 elsewhere."""
    best = scores.argmax(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, best, 1.0)
