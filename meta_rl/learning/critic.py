"""A value head whose targets are scaled by their running moments."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.learning.normalization import RunningMoments


class ValueHead(nn.Linear):
    """A linear critic of returns of any size, which learns them scaled (PopArt).

    It predicts returns as if their mean were 0 and their variance 1. When their moments move, its
    weights move against them, so that what it predicts stays (van Hasselt et al. 2016, eq. 9).
    With the first returns, it predicts their mean.

    The moments are buffers: they are saved with the weights, and no optimizer moves them.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        for name, value in vars(RunningMoments.empty((), self.weight.device)).items():
            self.register_buffer(name, value)

    @property
    def moments(self) -> RunningMoments:
        """Of all returns so far."""
        return RunningMoments(self.count, self.mean, self.variance)

    def forward(self, features: Float[Tensor, "*B H"]) -> Float[Tensor, "*B"]:
        """Return the predicted returns, scaled."""
        return super().forward(features).squeeze(-1)

    def scaled(self, returns: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Return in standard deviations from the mean what is given in the returns' own unit."""
        return (returns - self.mean) / self.moments.std

    def unscaled(self, value: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Return predicted returns in their own unit."""
        return self.mean + self.moments.std * value

    @torch.no_grad()
    def rescale(self, returns: Float[Tensor, "*B"], valid: Bool[Tensor, "*C"]) -> None:
        """Merge all ranks' returns into the moments; predictions stay, if there were any."""
        before, after = self.moments, self.moments.merge(returns, valid)
        if before.count > 0:
            keep_predictions(self, before, after)
        for name, value in vars(after).items():
            getattr(self, name).copy_(value)


@torch.no_grad()
def keep_predictions(head: nn.Linear, before: RunningMoments, after: RunningMoments) -> None:
    """Move a head against its outputs' moments, so that what it predicts stays.

    Args:
        before: Of each output, or one for all (van Hasselt et al. 2016, eq. 9).
    """
    head.weight.mul_((before.std / after.std).view(-1, 1))
    head.bias.copy_((before.mean + before.std * head.bias - after.mean) / after.std)
