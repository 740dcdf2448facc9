"""Layers of two residual parts: a read from the past, then a network for each step."""

from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """The second part that all layers of memories share (Vaswani et al. 2017), pre-norm."""

    merge: nn.Linear
    feed_forward: nn.Sequential

    def finish(
        self, x: Float[Tensor, "*B H"], read: Float[Tensor, "*B H"]
    ) -> Float[Tensor, "*B H"]:
        """Add the read from the past, and then the network's output for the sum."""
        x = x + self.merge(read)
        output: Tensor = x + self.feed_forward(x)
        return output


def feed_forward(size: int, hidden: int) -> nn.Sequential:
    """Make the network for each step."""
    return nn.Sequential(
        nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)
    )
