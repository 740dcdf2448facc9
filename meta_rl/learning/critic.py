"""Values of any size, learned in units of their running moments, and a value head."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.learning.normalization import RunningMoments


class PopArt(nn.Module):
    """Heads that predict returns as if their mean were 0 and their variance 1 (PopArt).

    When the moments of the returns change, the heads' weights change with them, so that predictions
    stay the same (van Hasselt et al. 2016, eq. 9).

    The moments are buffers: they are saved with the weights, and no optimizer moves them.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    returns_remembered: float = inf
    """Largest count of the moments, so that they follow about this many of the latest returns."""

    def begin_moments(self, size: tuple[int, ...]) -> None:
        """Register the moments of no returns."""
        for name, value in vars(RunningMoments.empty(size, torch.device("cpu"))).items():
            self.register_buffer(name, value)

    @property
    def scaled_heads(self) -> Sequence[nn.Linear]:
        """The layers that predict scaled returns."""
        raise NotImplementedError(f"{type(self).__name__} must say what predicts")

    @property
    def moments(self) -> RunningMoments:
        """The moments of the returns so far: of each output, or one for all."""
        return RunningMoments(self.count, self.mean, self.variance)

    def scaled(self, returns: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Return returns in standard deviations from their mean."""
        return (returns - self.mean) / self.moments.std

    def unscaled(self, value: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Return scaled predictions in the unit of returns."""
        return self.mean + self.moments.std * value

    @torch.no_grad()
    def rescale(self, returns: Float[Tensor, "*B"], valid: Bool[Tensor, "*C"]) -> None:
        """Merge all ranks' returns into the moments; keep the predictions, if there were any."""
        before, merged = self.moments, self.moments.merge(returns, valid)
        after = replace(merged, count=merged.count.clamp(max=self.returns_remembered))
        if before.count > 0:
            for head in self.scaled_heads:
                head.weight.mul_((before.std / after.std).view(-1, 1))
                head.bias.copy_((before.mean + before.std * head.bias - after.mean) / after.std)
        for name, value in vars(after).items():
            getattr(self, name).copy_(value)


class ValueHead(PopArt, nn.Linear):
    """A linear critic of returns; after the first returns, it predicts their mean."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.begin_moments(())

    @property
    def scaled_heads(self) -> Sequence[nn.Linear]:
        """The critic itself."""
        return [self]

    def forward(self, features: Float[Tensor, "*B H"]) -> Float[Tensor, "*B"]:
        """Return the predicted returns, scaled."""
        return super().forward(features).squeeze(-1)
