"""Memories of a trial: a GRU, an LSTM, and a causal transformer.

A memory has two forms that compute the same, which a test holds equal:

- `step` acts: it takes one step of B worlds and what they remember. Padding moves nothing.
- `sequence` trains: it takes T steps of B worlds at once, and gradients flow back through them.

What is remembered is the *state*: a pytree of tensors with a leading axis B. It can so be an
agent's context, be cut and put together along B, and be handed from one piece of a trial to the
next. Both forms go on from any state, whichever of them has made it. No gradient flows through it.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from meta_rl.core.checks import check_at_least
from meta_rl.core.errors import UserError

State: TypeAlias = Any
"""What B worlds remember: a pytree of tensors with a leading axis B."""


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of a memory. Layers, heads and context are a transformer's alone."""

    memory: Literal["gru", "lstm", "transformer"] = "gru"
    """What remembers the trial: a recurrent network, or attention to its latest steps."""
    memory_size: int = 128
    """Units of the memory (H), at least 1."""
    layers: int = 2
    """Layers of the transformer, at least 1."""
    heads: int = 4
    """Attention heads of each layer of the transformer, at least 1; memory_size must be a multiple
    of twice as many."""
    context_steps: int = 1500
    """Steps that the transformer attends to (W), at least 1: the latest ones of a longer trial. It
    keeps room for no more than a trial has."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "memory_size", "layers", "heads", "context_steps")
        if self.memory == "transformer" and self.memory_size % (2 * self.heads):
            raise UserError(
                f"agent.memory_size must be a multiple of {2 * self.heads}, twice agent.heads, so "
                f"that positions can turn pairs of numbers; got {self.memory_size}"
            )


@runtime_checkable
class Memory(Protocol):
    """What remembers a trial."""

    def empty(self, worlds: int) -> State:
        """Return the state of worlds that have seen nothing, on the parameters' device."""
        ...

    def step(
        self, inputs: Float[Tensor, "B I"], state: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B H"], State]:
        """Return what is remembered at a step, and the state with the step in it.

        It may write into the state that it is given.

        Args:
            valid: Where the step is none of padding. Others leave the state as it is.
        """
        ...

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: State
    ) -> tuple[Float[Tensor, "T B H"], State]:
        """Return what is remembered at each step of a sequence, and the state after the last.

        Padding may stand at the end, where no valid step sees it; the state then counts for
        nothing.

        Args:
            state: Before the first step. It is left as it is.
        """
        ...


class GRU(nn.GRU):
    """A gated recurrent unit; its state is (B, H)."""

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


class Transformer(nn.Module):
    """A causal transformer over the latest W steps of a trial (Vaswani et al. 2017), pre-norm.

    The state holds each layer's keys and values of those steps, `keys` and `values`
    (B, layers, W, D), and how many `steps` (B,) the trial has had. Step t lies in slot t mod W, so
    acting writes one slot in place and moves nothing: it costs O(W) a step, with no copy.

    Positions are rotary (Su et al. 2021): a key is turned by its own position once, and attention
    sees differences of positions alone. So a key in its slot stays what it is while the window
    slides on, and no trial is too long. Learned positions would have to be added anew at each step.

    The heads of a layer share keys and values (multi-query attention, Shazeer 2019), since reading
    the state is most of what a step costs.

    There is no dropout. PPO compares the probabilities of acting with those of training.

    Args:
        input_size: I.
        size: H, the heads together.
        context_steps: W.
    """

    def __init__(
        self, input_size: int, size: int, layers: int, heads: int, context_steps: int
    ) -> None:
        super().__init__()
        self.context_steps = context_steps
        self.head_size = size // heads
        self.inlet = nn.Linear(input_size, size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size)

    def empty(self, worlds: int) -> dict[str, Tensor]:
        """Return a memory of nothing, with room for W steps."""
        room = (worlds, len(self.blocks), self.context_steps, self.head_size)
        weight = self.inlet.weight
        return {
            "keys": weight.new_zeros(room),
            "values": weight.new_zeros(room),
            "steps": torch.zeros(worlds, dtype=torch.long, device=weight.device),
        }

    def step(
        self,
        inputs: Float[Tensor, "B I"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B H"], dict[str, Tensor]]:
        """Remember a step: write it into its slot of each layer, and attend to all that are full.

        The slot that it takes held the step that the window leaves behind.
        """
        steps = state["steps"]
        reach = self._slots_in_use(steps + 1)
        alike = self._in_step(steps, valid)
        world = torch.arange(steps.shape[0], device=steps.device)
        slot = steps % self.context_steps
        visible = None
        if not alike:
            visible = torch.arange(reach, device=steps.device) <= steps.unsqueeze(1)  # (B, reach)
            visible = visible.unsqueeze(1).unsqueeze(1)
        turn = self._turn(steps[:1] if alike else steps)
        x = self.inlet(inputs)
        for layer, block in enumerate(self._layers):
            query, key, value = block.project(x, turn)
            for column, row in ((state["keys"], key), (state["values"], value)):
                if alike:
                    column[:, layer, slot[0]] = row
                else:
                    kept = torch.where(valid.unsqueeze(1), row, column[world, layer, slot])
                    column[world, layer, slot] = kept
            # All heads look at the same keys, so they stand where a sequence has its steps.
            attended = functional.scaled_dot_product_attention(
                query.unsqueeze(1),
                state["keys"][:, layer : layer + 1, :reach],
                state["values"][:, layer : layer + 1, :reach],
                attn_mask=visible,
            )
            x = block.finish(x, attended.flatten(1))
        return self.norm(x), {**state, "steps": steps + valid}

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "T B H"], dict[str, Tensor]]:
        """Remember a sequence: its steps attend to the state's and to one another's."""
        length, steps = len(inputs), state["steps"]
        clock = torch.arange(length, device=steps.device)
        position = steps.unsqueeze(1) + clock  # (B, T)
        past = self._slots_in_use(steps)
        visible = self._visible(steps, clock, past).unsqueeze(1)
        kept = min(length, self.context_steps)
        world = torch.arange(steps.shape[0], device=steps.device).unsqueeze(1)
        slot = position[:, length - kept :] % self.context_steps
        turn = self._turn(position)
        filled = {name: state[name].clone() for name in ("keys", "values")}
        x = self.inlet(inputs).transpose(0, 1)
        for layer, block in enumerate(self._layers):
            query, key, value = block.project(x, turn)
            shared = (-1, query.shape[2], -1, -1)
            seen = {
                name: torch.cat([state[name][:, layer, :past], new], dim=1).unsqueeze(1)
                for name, new in (("keys", key), ("values", value))
            }
            attended = functional.scaled_dot_product_attention(
                query.transpose(1, 2),
                seen["keys"].expand(shared),
                seen["values"].expand(shared),
                attn_mask=visible,
            )
            for name, new in (("keys", key), ("values", value)):
                filled[name][world, layer, slot] = new[:, length - kept :].detach()
            x = block.finish(x, attended.transpose(1, 2).flatten(2))
        return self.norm(x).transpose(0, 1), {**filled, "steps": steps + length}

    @property
    def _layers(self) -> list["Block"]:
        return cast(list[Block], list(self.blocks))

    def _visible(
        self, steps: Int[Tensor, "B"], clock: Int[Tensor, "T"], past: int
    ) -> Bool[Tensor, "B T S"]:
        """Return which of the state's slots, and then of the sequence, each step attends to."""
        slot = torch.arange(past, device=steps.device)
        last = steps.unsqueeze(1) - 1
        written = last - (last - slot) % self.context_steps  # each slot's position; none below 0
        age = (steps.unsqueeze(1) + clock).unsqueeze(2) - written.unsqueeze(1)
        of_state = (written >= 0).unsqueeze(1) & (age < self.context_steps)
        age = clock.unsqueeze(1) - clock
        of_sequence = (age >= 0) & (age < self.context_steps)
        return torch.cat([of_state, of_sequence.expand(len(steps), -1, -1)], dim=2)

    def _slots_in_use(self, steps: Int[Tensor, "B"]) -> int:
        """Return how many slots hold anything: all, where to count them would wait for a GPU."""
        if steps.device.type != "cpu" or torch.compiler.is_exporting():
            return self.context_steps
        return min(int(steps.max()), self.context_steps)

    def _in_step(self, steps: Int[Tensor, "B"], valid: Bool[Tensor, "B"]) -> bool:
        """Return whether all worlds are known to write the same slot and to see all that is full.

        So it mostly is, and then one slice is written, and no world needs a mask of its own.
        """
        if steps.device.type != "cpu" or torch.compiler.is_exporting():
            return False
        return bool(valid.all()) and bool((steps == steps[0]).all())

    def _turn(self, position: Int[Tensor, "*B"]) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (*B, D / 2) of each position's angles.

        Angles are in double precision, so that a late step's are as exact as an early one's.
        """
        half = self.head_size // 2
        exponent = torch.arange(half, dtype=torch.double, device=position.device) / half
        angle = position.unsqueeze(-1) * 10_000.0**-exponent
        dtype = self.inlet.weight.dtype
        return angle.cos().to(dtype), angle.sin().to(dtype)


class Block(nn.Module):
    """One layer of a transformer: attention, then a network for each step, both residual."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.sizes = (size, size // heads, size // heads)
        self.heads = heads
        self.norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, sum(self.sizes), bias=False)
        self.merge = nn.Linear(size, size)
        for layer in (self.query_key_value, self.merge):
            # As `nn.MultiheadAttention`: with `nn.Linear`'s own, smaller weights all steps would be
            # attended to alike at first, and a single one among a hundred would hardly count.
            nn.init.xavier_uniform_(layer.weight)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
        )

    def project(
        self, x: Float[Tensor, "*B H"], turn: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "*B heads D"], Float[Tensor, "*B D"], Float[Tensor, "*B D"]]:
        """Return each head's query, and the key and the value that heads share."""
        query, key, value = self.query_key_value(self.norm(x)).split(self.sizes, dim=-1)
        cos, sin = turn
        query = rotated(query.unflatten(-1, (self.heads, -1)), cos.unsqueeze(-2), sin.unsqueeze(-2))
        return query, rotated(key, cos, sin), value

    def finish(
        self, x: Float[Tensor, "*B H"], attended: Float[Tensor, "*B H"]
    ) -> Float[Tensor, "*B H"]:
        """Add what was attended to, and then what the network makes of it."""
        x = x + self.merge(attended)
        output: Tensor = x + self.feed_forward(x)
        return output


def rotated(
    x: Float[Tensor, "*B D"], cos: Float[Tensor, "*C half"], sin: Float[Tensor, "*C half"]
) -> Float[Tensor, "*B D"]:
    """Turn pairs of numbers by their angles, which broadcast (Su et al. 2021, eq. 34)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def build_memory(config: MemoryConfig, input_size: int, trial_steps: int) -> Memory:
    """Make a memory of the kind that the settings name.

    Args:
        trial_steps: Most steps of a trial: a transformer keeps no room for more.
    """
    if config.memory == "transformer":
        window = min(config.context_steps, trial_steps)
        return Transformer(input_size, config.memory_size, config.layers, config.heads, window)
    recurrent = {"gru": GRU, "lstm": LSTM}
    memory: Memory = recurrent[config.memory](input_size, config.memory_size)
    return memory


def by_world(state: State, worlds: torch.Size) -> State:
    """Lay the state of B = M × N worlds out as the context of an agent, (M, N, ...)."""
    return tree_map(lambda part: part.unflatten(0, worlds), state)


def in_a_row(context: State) -> State:
    """Lay a context out as the state of B = M × N worlds; they share the same memory."""
    return tree_map(lambda part: part.flatten(0, 1), context)
