"""How new something is, told by how badly a network predicts another, random one."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meta_rl.core.seeding import derive_seed

WEIGHT_SCALE = 3.0
"""How much larger than PyTorch's own the random network's weights are, so that it bends enough for
what is learned in one place to tell little of another; chosen from a few."""


class Novelty(nn.Module):
    """Random network distillation (Burda et al. 2019, §2.2).

    A network learns to put out what a random one, which never changes, puts out for the rows that
    it is shown. Where it has learned its error is small; elsewhere it stays as large as at first.

    Args:
        input_size: Numbers of a row (I).
        sizes: Units of each hidden layer of both networks.
        outputs: Numbers that they put out.
        seed: Of both networks' parameters.
    """

    def __init__(
        self, input_size: int, seed: int, sizes: Sequence[int] = (128, 128), outputs: int = 32
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch's modules draw from the global generator
            torch.manual_seed(derive_seed(seed, "novelty"))
            self.random = _network((input_size, *sizes, outputs)).requires_grad_(False)
            self.predictor = _network((input_size, *sizes, outputs))
            for parameter in self.random.parameters():
                parameter.mul_(WEIGHT_SCALE)

    def forward(self, rows: Float[Tensor, "*B I"]) -> Float[Tensor, "*B"]:
        """Return the squared error, mean over outputs, of each row: at least 0."""
        rows = rows.to(next(self.random.parameters()).dtype)
        error: Tensor = (self.predictor(rows) - self.random(rows)).square().mean(-1)
        return error


def _network(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
