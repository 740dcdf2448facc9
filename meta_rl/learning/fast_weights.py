"""Fast weights: a matrix that each step of a trial corrects."""

from math import log10
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from meta_rl.core.errors import UserError
from meta_rl.learning.residual import Residual, feed_forward

STEPS_AT_ONCE = 32
"""Steps of a sequence that are solved for together (C), with C × C matrices. Later steps see them
through the weights."""
STEPS_REMEMBERED = (30.0, 3000.0)
"""Initial memory of the heads, from the shortest to the longest: steps after which a share 1 / e is
left. As in Mamba (Gu and Dao 2023), heads differ, and learn how long to remember."""

Remembered: TypeAlias = tuple[Float[Tensor, "B heads D D"], Float[Tensor, "B H"]]
"""The state of a layer: its weights, and the step before."""
State: TypeAlias = tuple[Remembered, ...]


class FastWeights(nn.Module):
    """Layers of fast weights that the delta rule writes (Schlag et al. 2021; Irie et al. 2021).

    In each head, a step has a key, a value, a rate, a query and a share that is kept. First the
    weights W fade to that share (Yang et al. 2025). Then they are corrected, so that the key gives
    the value more nearly. Then the query reads them:

        W ← kept · W,    W ← W + rate · key (value − Wᵀ key)ᵀ,    read = Wᵀ query

    So one read recalls what followed last time in the same situation, however many others lay
    between. A vector that is rewritten at each step learns that slowly. A step costs the same
    however long the trial is.

    The query depends on the step alone. The others depend on the step and the one before it,
    because the result of an action is known only at the next step (the short convolution of Yang
    et al. 2024, of width two). Keys and queries are positive and sum to one, and rates are below
    one, so a correction never overshoots.

    The state is, for each layer, its weights and the step before.

    Args:
        input_size: I.
        size: H, the heads together.
    """

    costs_its_past = False

    def __init__(self, input_size: int, size: int, layers: int, heads: int) -> None:
        super().__init__()
        self.shape = (heads, size // heads, size // heads)
        self.inlet = nn.Linear(input_size, size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size)

    def empty(self, worlds: int) -> State:
        """Return a memory of nothing."""
        weight = self.inlet.weight
        return tuple(
            (weight.new_zeros(worlds, *self.shape), weight.new_zeros(worlds, len(weight)))
            for _ in self.blocks
        )

    def step(
        self, inputs: Float[Tensor, "B I"], state: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B H"], State]:
        """Remember a step."""
        x, moved = self.inlet(inputs), []
        for block, of_layer in zip(self._layers, state, strict=True):
            x, of_layer = block.step(x, *of_layer, valid)
            moved.append(of_layer)
        return self.norm(x), tuple(moved)

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: State
    ) -> tuple[Float[Tensor, "T B H"], State]:
        """Remember a sequence, many steps at once."""
        x, moved = self.inlet(inputs).transpose(0, 1), []
        for block, of_layer in zip(self._layers, state, strict=True):
            x, of_layer = block.sequence(x, *of_layer)
            moved.append(of_layer)
        return self.norm(x).transpose(0, 1), tuple(moved)

    @property
    def _layers(self) -> list["Block"]:
        return cast(list[Block], list(self.blocks))


class Block(Residual):
    """One layer: fast weights, then a network for each step."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sizes = (size, size, heads, heads)
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size)
        self.key_value_rates = nn.Linear(2 * size, sum(self.sizes))
        self.merge = nn.Linear(size, size)
        for layer in (self.query, self.key_value_rates):
            # `nn.Linear`'s own initial weights are smaller: all keys would be alike at first.
            nn.init.xavier_uniform_(layer.weight)
        shortest, longest = STEPS_REMEMBERED
        steps = torch.logspace(log10(shortest), log10(longest), heads)
        with torch.no_grad():
            self.key_value_rates.bias[-heads:] = steps.log()
        self.feed_forward = feed_forward(size, hidden=2 * size)

    def project(
        self, now: Float[Tensor, "*B H"], before: Float[Tensor, "*B H"]
    ) -> tuple[
        Float[Tensor, "*B heads D"],
        Float[Tensor, "*B heads D"],
        Float[Tensor, "*B heads D"],
        Float[Tensor, "*B heads"],
        Float[Tensor, "*B heads"],
    ]:
        """Return each head's query, key, value, rate and log of the kept share.

        They depend on a step and the one before it.
        """
        both = torch.cat([now, before], dim=-1)
        key, value, rate, kept = self.key_value_rates(both).split(self.sizes, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in (self.query(now), key, value)
        )
        return query.softmax(-1), key.softmax(-1), value, rate.sigmoid(), logsigmoid(kept)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        if f"{prefix}key_value_rate.weight" in state:
            raise UserError(
                "the checkpoint is of earlier fast weights, which did not fade; these fade, and "
                "learn how fast: train a new run"
            )
        super()._load_from_state_dict(state, prefix, *others)

    def step(
        self,
        x: Float[Tensor, "B H"],
        weights: Float[Tensor, "B heads D D"],
        before: Float[Tensor, "B H"],
        valid: Bool[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B H"], Remembered]:
        """Return the layer's output at a step, and its new state."""
        now, valid = self.norm(x), valid.unsqueeze(-1)
        query, key, value, rate, log_kept = self.project(now, before)
        kept = torch.where(valid, log_kept, 0).exp()[..., None, None]
        # Reading the weights is most of the cost of a step, so key and query share it.
        recalled, read = (kept * (torch.stack([key, query], dim=-2) @ weights)).unbind(-2)
        added = rate.unsqueeze(-1) * (value - recalled)
        read = read + (key * query).sum(-1, keepdim=True) * added
        key, added = (torch.where(valid.unsqueeze(-1), part, 0) for part in (key, added))
        weights = torch.addcmul(kept * weights, key.unsqueeze(-1), added.unsqueeze(-2))
        return self.finish(x, read.flatten(1)), (weights, torch.where(valid, now, before))

    def sequence(
        self,
        x: Float[Tensor, "B T H"],
        weights: Float[Tensor, "B heads D D"],
        before: Float[Tensor, "B H"],
    ) -> tuple[Float[Tensor, "B T H"], Remembered]:
        """Return the layer's output along a sequence, and its state after it."""
        now = self.norm(x)
        shifted = torch.cat([before.unsqueeze(1), now[:, :-1]], dim=1)
        columns = [part.transpose(1, 2) for part in self.project(now, shifted)]
        pieces = []
        for piece in zip(*(torch.split(one, STEPS_AT_ONCE, 2) for one in columns), strict=True):
            read, weights = corrected(weights, *piece)
            pieces.append(read)
        read = torch.cat(pieces, dim=2).transpose(1, 2).flatten(2)
        return self.finish(x, read), (weights.detach(), now[:, -1].detach())


def corrected(
    weights: Float[Tensor, "*B D E"],
    query: Float[Tensor, "*B C D"],
    key: Float[Tensor, "*B C D"],
    value: Float[Tensor, "*B C E"],
    rate: Float[Tensor, "*B C"],
    log_kept: Float[Tensor, "*B C"],
) -> tuple[Float[Tensor, "*B C E"], Float[Tensor, "*B D E"]]:
    """Return the reads of C steps, and the weights after them, without a loop.

    Step i adds keyᵢ uᵢᵀ to the weights. At step i, a share keptⱼᵢ = keptⱼ₊₁ ⋯ keptᵢ is left of the
    addition of step j, and kept₀ᵢ of the weights before all steps. Each correction depends on those
    before it:

        uᵢ = rateᵢ (valueᵢ − kept₀ᵢ Wᵀ keyᵢ − Σ_{j<i} keptⱼᵢ (keyᵢ · keyⱼ) uⱼ)

    This is a triangular system in u (Yang et al. 2024, 2025).
    """
    left = log_kept.cumsum(-1)
    between = (left.unsqueeze(-1) - left.unsqueeze(-2)).tril().exp()
    start, rate = left.exp().unsqueeze(-1), rate.unsqueeze(-1)
    overlap = (rate * between * (key @ key.mT)).tril(-1)
    added = torch.linalg.solve_triangular(
        overlap, rate * (value - start * (key @ weights)), upper=False, unitriangular=True
    )
    read = start * (query @ weights) + (between * (query @ key.mT)).tril() @ added
    last = between[..., -1, :].unsqueeze(-1)
    return read, start[..., -1:, :] * weights + (last * key).mT @ added
