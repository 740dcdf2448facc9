"""How new something is, told by how badly a network predicts another, random one."""

from jaxtyping import Float
from torch import Tensor, nn

from meta_rl.core.seeding import seeded
from meta_rl.learning.networks import mlp

WEIGHT_SCALE = 3.0
"""How much larger than PyTorch's own the random network's weights are, so that it bends enough for
what is learned in one place to tell little of another; chosen from a few."""
HIDDEN_SIZES = (128, 128)
"""Units of each hidden layer of both networks."""
OUTPUTS = 32
"""Numbers that both networks put out."""


class Novelty(nn.Module):
    """Random network distillation (Burda et al. 2019, §2.2).

    A network learns to put out what a random one, which never changes, puts out for the rows that
    it is shown. Where it has learned its error is small; elsewhere it stays as large as at first.

    Args:
        input_size: Numbers of a row (I).
        seed: Of both networks' parameters.
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
