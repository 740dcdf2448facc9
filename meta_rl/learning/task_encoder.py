"""A recurrent encoder that tells the task from what a trial has shown so far."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class TaskEncoder(nn.Module):
    """Layers for each step, a GRU over the steps, and a linear head: the task variable.

    The variable is a function of the memory alone, so what is known before any step is that of the
    empty memory, which is all zeros.

    Args:
        input_size: Numbers that a step shows (I).
        encoder_sizes: Units of each layer before the GRU.
        memory_size: Units of the GRU (H).
        variable_size: Numbers that describe the task (V).
    """

    def __init__(
        self, input_size: int, encoder_sizes: Sequence[int], memory_size: int, variable_size: int
    ) -> None:
        super().__init__()
        sizes = [input_size, *encoder_sizes]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.memory = nn.GRU(sizes[-1], memory_size)
        self.head = nn.Linear(memory_size, variable_size)

    def forward(
        self, inputs: Float[Tensor, "T B I"], hidden: Float[Tensor, "B H"]
    ) -> tuple[Float[Tensor, "T B V"], Float[Tensor, "B H"]]:
        """Return the variable after each step, and the memory after the last one."""
        remembered, last = self.memory(self.layers(inputs), hidden.unsqueeze(0))
        return self.head(remembered), last.squeeze(0)
