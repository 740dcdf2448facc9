"""A causal transformer that remembers a trial."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.learning.residual import Residual, feed_forward


class Transformer(nn.Module):
    """A causal transformer over the latest W steps of a trial (Vaswani et al. 2017), pre-norm.

    The state holds each layer's keys and values of those steps, `keys` and `values`
    (B, layers, W, D), and how many `steps` (B,) the trial has had. Step t lies in slot t mod W, so
    acting writes one slot in place and moves nothing: it costs O(W) a step, with no copy.

    Positions are rotary (Su et al. 2021): a key is turned by its own position once, and attention
    depends on differences of positions alone. So a key in its slot need not change while the window
    slides on, and no trial is too long. Learned positions would have to be added anew at each step.

    The heads of a layer share keys and values (multi-query attention, Shazeer 2019), because
    reading the state is most of the cost of a step.

    There is no dropout. PPO compares the probabilities of acting with those of training.

    Args:
        input_size: I.
        size: H, the heads together.
        context_steps: W.
    """

    costs_its_past = True

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
        """Remember a step: write it into its slot of each layer, and attend to all full slots.

        It overwrites the step that leaves the window.
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
            # All heads share the keys, so they take the axis of a sequence's steps.
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
    ) -> Bool[Tensor, "#B T S"]:
        """Return which slots of the state, and then steps of the sequence, each step sees."""
        if self._at_one_step(steps):
            steps = steps[:1]  # one mask for all
        slot = torch.arange(past, device=steps.device)
        last = steps.unsqueeze(1) - 1
        written = last - (last - slot) % self.context_steps  # each slot's position; none below 0
        age = (steps.unsqueeze(1) + clock).unsqueeze(2) - written.unsqueeze(1)
        of_state = (written >= 0).unsqueeze(1) & (age < self.context_steps)
        age = clock.unsqueeze(1) - clock
        of_sequence = (age >= 0) & (age < self.context_steps)
        return torch.cat([of_state, of_sequence.expand(len(steps), -1, -1)], dim=2)

    def _slots_in_use(self, steps: Int[Tensor, "B"]) -> int:
        """Return how many slots are in use; on a GPU all, since counting would wait for it."""
        if steps.device.type != "cpu" or torch.compiler.is_exporting():
            return self.context_steps
        return min(int(steps.max()), self.context_steps)

    def _in_step(self, steps: Int[Tensor, "B"], valid: Bool[Tensor, "B"]) -> bool:
        """Return whether all worlds surely write the same slot and see all full slots.

        This is the common case: one slice is written, and no world needs a mask of its own.
        """
        return self._at_one_step(steps) and bool(valid.all())

    def _at_one_step(self, steps: Int[Tensor, "B"]) -> bool:
        """Return whether all worlds surely are at the same step; a GPU would be waited for."""
        if steps.device.type != "cpu" or torch.compiler.is_exporting():
            return False
        return bool((steps == steps[0]).all())

    def _turn(self, position: Int[Tensor, "*B"]) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (*B, D / 2) of each position's angles.

        Angles are in double precision, so that a late step's are as exact as an early one's.
        """
        half = self.head_size // 2
        exponent = torch.arange(half, dtype=torch.double, device=position.device) / half
        angle = position.unsqueeze(-1) * 10_000.0**-exponent
        dtype = self.inlet.weight.dtype
        return angle.cos().to(dtype), angle.sin().to(dtype)


class Block(Residual):
    """One layer of a transformer: attention, then a network for each step, both residual."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.sizes = (size, size // heads, size // heads)
        self.heads = heads
        self.norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, sum(self.sizes), bias=False)
        self.merge = nn.Linear(size, size)
        for layer in (self.query_key_value, self.merge):
            # As `nn.MultiheadAttention`. `nn.Linear`'s own weights are smaller: attention would be
            # even at first, and a single step among a hundred would hardly count.
            nn.init.xavier_uniform_(layer.weight)
        self.feed_forward = feed_forward(size, hidden=4 * size)

    def project(
        self, x: Float[Tensor, "*B H"], turn: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "*B heads D"], Float[Tensor, "*B D"], Float[Tensor, "*B D"]]:
        """Return each head's query, and the heads' shared key and value."""
        query, key, value = self.query_key_value(self.norm(x)).split(self.sizes, dim=-1)
        cos, sin = turn
        query = rotated(query.unflatten(-1, (self.heads, -1)), cos.unsqueeze(-2), sin.unsqueeze(-2))
        return query, rotated(key, cos, sin), value


def rotated(
    x: Float[Tensor, "*B D"], cos: Float[Tensor, "*C half"], sin: Float[Tensor, "*C half"]
) -> Float[Tensor, "*B D"]:
    """Turn pairs of numbers by their angles, which broadcast (Su et al. 2021, eq. 34)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
