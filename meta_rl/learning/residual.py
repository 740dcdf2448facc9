"""A layer that reads from the past, then a network for each step, both residual."""

from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """The end that layers of memories have in common (Vaswani et al. 2017), pre-norm."""

    merge: nn.Linear
    feed_forward: nn.Sequential

    def finish(
        self, x: Float[Tensor, "*B H"], read: Float[Tensor, "*B H"]
    ) -> Float[Tensor, "*B H"]:
        """Add what was read from the past, and then what the network makes of it."""
        x = x + self.merge(read)
        output: Tensor = x + self.feed_forward(x)
        return output


def feed_forward(size: int, hidden: int) -> nn.Sequential:
    """Make the network for each step."""
    return nn.Sequential(
        nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)
    )
