"""Memories of a trial: a GRU, an LSTM, a causal transformer, and fast weights.

A memory has two forms that compute the same, which a test holds equal:

- `step` acts: it takes one step of B worlds and their state. Padding leaves the state as it is.
- `sequence` trains: it takes T steps of B worlds at once, and gradients flow back through them.

What is remembered is the *state*: a pytree of tensors with a leading axis B. So it can be an
agent's context, can be split and joined along B, and can be handed from one piece of a trial to the
next. Both forms go on from any state, made by either of them. No gradient flows through it.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meta_rl.core.checks import check_at_least
from meta_rl.core.errors import UserError
from meta_rl.learning.fast_weights import FastWeights
from meta_rl.learning.transformer import Transformer

State: TypeAlias = Any
"""The memory of B worlds: a pytree of tensors with a leading axis B."""

Kind: TypeAlias = Literal["gru", "lstm", "transformer", "fast_weights"]


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of a memory.

    `layers` and `heads` are for transformers and fast weights, `context_steps` for transformers.
    """

    memory: Kind = "gru"
    """Kind of memory: a recurrent network (gru, lstm), attention to the trial's latest steps
    (transformer), or a matrix that each step corrects (fast_weights)."""
    memory_size: int = 128
    """Units of the memory (H), at least 1."""
    layers: int = 2
    """Layers of a transformer or of fast weights, at least 1."""
    heads: int = 4
    """Heads of each layer of a transformer or of fast weights, at least 1. memory_size must be a
    multiple of heads; for a transformer, of twice that."""
    context_steps: int = 1500
    """Latest steps that a transformer attends to (W), at least 1. Its memory has room for these, or
    for the whole trial if that is shorter."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "memory_size", "layers", "heads", "context_steps")
        if self.memory == "transformer" and self.memory_size % (2 * self.heads):
            raise UserError(
                f"agent.memory_size must be a multiple of {2 * self.heads}, twice agent.heads, "
                f"because positions turn pairs of numbers; got {self.memory_size}"
            )
        if self.memory == "fast_weights" and self.memory_size % self.heads:
            raise UserError(
                f"agent.memory_size must be a multiple of agent.heads, {self.heads}, which share "
                f"it; got {self.memory_size}"
            )


@runtime_checkable
class Memory(Protocol):
    """The memory of a trial."""

    costs_its_past: bool
    """Whether a sequence costs the more, the more steps came before it. Worlds that are played
    together then each cost as much as the one with the longest past."""

    def empty(self, worlds: int) -> State:
        """Return the state of worlds that have seen nothing, on the parameters' device."""
        ...

    def step(
        self, inputs: Float[Tensor, "B I"], state: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B H"], State]:
        """Return the output at a step, and the state with the step in it.

        It may write into the state that it is given.

        Args:
            valid: Where the step is not padding. Padding leaves the state as it is.
        """
        ...

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: State
    ) -> tuple[Float[Tensor, "T B H"], State]:
        """Return the output at each step of a sequence, and the state after the last.

        Padding may stand at the end, where no valid step sees it; the state then means nothing.

        Args:
            state: Before the first step. It is left as it is.
        """
        ...


class GRU(nn.GRU):
    """A gated recurrent unit; its state is (B, H)."""

    costs_its_past = False

    def empty(self, worlds: int) -> Float[Tensor, "B H"]:
        """Return a memory of nothing."""
        return next(self.parameters()).new_zeros(worlds, self.hidden_size)

    def step(
        self,
        inputs: Float[Tensor, "B I"],
        state: Float[Tensor, "B H"],
        valid: Bool[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        """Remember a step."""
        remembered, moved = self.sequence(inputs.unsqueeze(0), state)
        return remembered.squeeze(0), torch.where(valid.unsqueeze(-1), moved, state)

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: Float[Tensor, "B H"]
    ) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"]]:
        """Remember a sequence."""
        remembered, last = self(inputs, state.unsqueeze(0))
        return remembered, last.squeeze(0).detach()


class LSTM(nn.LSTM):
    """A long short-term memory; its state is the output and the cell, (B, H) each."""

    costs_its_past = False

    def empty(self, worlds: int) -> tuple[Tensor, Tensor]:
        """Return a memory of nothing."""
        zeros = next(self.parameters()).new_zeros(worlds, self.hidden_size)
        return zeros, zeros.clone()

    def step(
        self,
        inputs: Float[Tensor, "B I"],
        state: tuple[Tensor, Tensor],
        valid: Bool[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B H"], tuple[Tensor, Tensor]]:
        """Remember a step."""
        remembered, moved = self.sequence(inputs.unsqueeze(0), state)
        output, cell = (
            torch.where(valid.unsqueeze(-1), new, old)
            for new, old in zip(moved, state, strict=True)
        )
        return remembered.squeeze(0), (output, cell)

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "T B H"], tuple[Tensor, Tensor]]:
        """Remember a sequence."""
        output, cell = state
        remembered, (output, cell) = self(inputs, (output.unsqueeze(0), cell.unsqueeze(0)))
        return remembered, (output.squeeze(0).detach(), cell.squeeze(0).detach())


def build_memory(config: MemoryConfig, input_size: int, trial_steps: int) -> Memory:
    """Make a memory of the kind that the settings name.

    Args:
        trial_steps: Most steps of a trial: a transformer keeps no room for more.
    """
    if config.memory == "transformer":
        window = min(config.context_steps, trial_steps)
        return Transformer(input_size, config.memory_size, config.layers, config.heads, window)
    if config.memory == "fast_weights":
        return FastWeights(input_size, config.memory_size, config.layers, config.heads)
    recurrent = {"gru": GRU, "lstm": LSTM}
    memory: Memory = recurrent[config.memory](input_size, config.memory_size)
    return memory


def by_world(state: State, worlds: torch.Size) -> State:
    """Lay the state of B = M × N worlds out as the context of an agent, (M, N, ...)."""
    return tree_map(lambda part: part.unflatten(0, worlds), state)


def in_a_row(context: State) -> State:
    """Lay a context out as the state of B = M × N worlds; they share the same memory."""
    return tree_map(lambda part: part.flatten(0, 1), context)
