"""An encoder that infers the task from a trial so far."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.learning.memory import MemoryConfig, State, build_memory
from meta_rl.learning.networks import layers


class TaskEncoder(nn.Module):
    """Layers for each step, a memory of the steps, and a linear head: the task variable.

    Args:
        input_size: Inputs of a step (I).
        encoder_sizes: Units of each layer before the memory.
        variable_size: Numbers that describe the task (V).
        trial_steps: Most steps of a trial.
    """

    def __init__(
        self,
        config: MemoryConfig,
        input_size: int,
        encoder_sizes: Sequence[int],
        variable_size: int,
        trial_steps: int,
    ) -> None:
        super().__init__()
        sizes = [input_size, *encoder_sizes]
        self.layers = layers(sizes)
        self.memory = build_memory(config, sizes[-1], trial_steps)
        self.head = nn.Linear(config.memory_size, variable_size)

    def forward(
        self, inputs: Float[Tensor, "T B I"], state: State
    ) -> tuple[Float[Tensor, "T B V"], State]:
        """Return the variable after each step, and the memory after the last one."""
        remembered, last = self.memory.sequence(self.layers(inputs), state)
        return self.head(remembered), last

    def step(
        self, inputs: Float[Tensor, "B I"], state: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B V"], State]:
        """Return the variable after one step, and the memory with it; see `Memory.step`."""
        remembered, state = self.memory.step(self.layers(inputs), state, valid)
        return self.head(remembered), state
