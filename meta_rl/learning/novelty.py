"""Novelty, as the error of a network that predicts the output of a random one."""

from jaxtyping import Float
from torch import Tensor, nn

from meta_rl.core.seeding import seeded
from meta_rl.learning.networks import mlp

WEIGHT_SCALE = 3.0
"""Factor of the random network's weights over PyTorch's own. It makes the network bend enough that
learning in one place tells little of another. Chosen from a few values."""
HIDDEN_SIZES = (128, 128)
"""Units of each hidden layer of both networks."""
OUTPUTS = 32
"""Outputs of both networks."""


class Novelty(nn.Module):
    """Random network distillation (Burda et al. 2019, §2.2).

    A network learns the outputs of a random network, which never changes, on the rows that it is
    shown. Its error becomes small on rows like these, and stays as large as at first elsewhere.

    Args:
        input_size: Numbers of a row (I).
        seed: Seed of both networks' parameters.
    """

    def __init__(self, input_size: int, seed: int) -> None:
        super().__init__()
        with seeded(seed, "novelty"):
            self.random = mlp(input_size, HIDDEN_SIZES, OUTPUTS).requires_grad_(False)
            self.predictor = mlp(input_size, HIDDEN_SIZES, OUTPUTS)
            for parameter in self.random.parameters():
                parameter.mul_(WEIGHT_SCALE)

    def forward(self, rows: Float[Tensor, "*B I"]) -> Float[Tensor, "*B"]:
        """Return the squared error, mean over outputs, of each row: at least 0."""
        rows = rows.to(next(self.random.parameters()).dtype)
        error: Tensor = (self.predictor(rows) - self.random(rows)).square().mean(-1)
        return error
