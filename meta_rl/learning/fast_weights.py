"""Fast weights: a matrix that each step of a trial corrects."""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.learning.residual import Residual, feed_forward

STEPS_AT_ONCE = 32
"""Steps of a sequence that are solved for together (C): their matrices are C × C, and what lies
between them and the next is read from the weights."""


class FastWeights(nn.Module):
    """Layers of fast weights that the delta rule writes (Schlag et al. 2021; Irie et al. 2021).

    In each head, a step has a key, a value, a rate and a query. The weights W are corrected so that
    the key comes nearer to giving the value, and the query reads what they have become:

        W ← W + rate · key (value − Wᵀ key)ᵀ,    read = Wᵀ query

    So what followed in the same situation before is recalled at once, however many other
    situations lay between, which a vector that is rewritten at each step learns slowly. A step
    costs the same however long the trial is.

    The query is of the step alone. The others are of the step and of the one before it, as what an
    action brought is known only with the next step (the short convolution of Yang et al. 2024, of
    width two). Keys and queries are positive and sum to one and rates are below one, so a
    correction never overshoots.

    The state holds, for each layer, the `weights` (B, layers, heads, D, D) and the step `before`
    (B, layers, H).

    Args:
        input_size: I.
        size: H, the heads together.
    """

    def __init__(self, input_size: int, size: int, layers: int, heads: int) -> None:
        super().__init__()
        self.shape = (heads, size // heads, size // heads)
        self.inlet = nn.Linear(input_size, size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size)

    def empty(self, worlds: int) -> dict[str, Tensor]:
        """Return a memory of nothing."""
        weight, layers = self.inlet.weight, len(self.blocks)
        return {
            "weights": weight.new_zeros(worlds, layers, *self.shape),
            "before": weight.new_zeros(worlds, layers, len(weight)),
        }

    def step(
        self, inputs: Float[Tensor, "B I"], state: dict[str, Tensor], valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B H"], dict[str, Tensor]]:
        """Remember a step."""
        x, columns = self.inlet(inputs), []
        for layer, block in enumerate(self._layers):
            weights, now = state["weights"][:, layer], block.norm(x)
            query, key, value, rate = block.project(now, state["before"][:, layer])
            missing = rate.unsqueeze(-1) * (value - recalled(weights, key))
            weights = weights + key.unsqueeze(-1) * missing.unsqueeze(-2)
            x = block.finish(x, recalled(weights, query).flatten(1))
            columns.append({"weights": weights, "before": now})
        moved = together(columns)
        kept = {
            name: torch.where(valid.reshape(-1, *[1] * (new.dim() - 1)), new, state[name])
            for name, new in moved.items()
        }
        return self.norm(x), kept

    def sequence(
        self, inputs: Float[Tensor, "T B I"], state: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "T B H"], dict[str, Tensor]]:
        """Remember a sequence, many steps at once."""
        x = self.inlet(inputs).transpose(0, 1)
        columns = []
        for layer, block in enumerate(self._layers):
            x, weights, before = block(x, state["weights"][:, layer], state["before"][:, layer])
            columns.append({"weights": weights.detach(), "before": before.detach()})
        return self.norm(x).transpose(0, 1), together(columns)

    @property
    def _layers(self) -> list["Block"]:
        return cast(list[Block], list(self.blocks))


class Block(Residual):
    """One layer: fast weights, then a network for each step."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sizes = (size, size, heads)
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size)
        self.key_value_rate = nn.Linear(2 * size, sum(self.sizes))
        self.merge = nn.Linear(size, size)
        for layer in (self.query, self.key_value_rate):
            # With `nn.Linear`'s own, smaller weights all keys would be alike at first.
            nn.init.xavier_uniform_(layer.weight)
        self.feed_forward = feed_forward(size)

    def project(
        self, now: Float[Tensor, "*B H"], before: Float[Tensor, "*B H"]
    ) -> tuple[
        Float[Tensor, "*B heads D"],
        Float[Tensor, "*B heads D"],
        Float[Tensor, "*B heads D"],
        Float[Tensor, "*B heads"],
    ]:
        """Return each head's query, key, value and rate, of a step and the one before it."""
        both = torch.cat([now, before], dim=-1)
        key, value, rate = self.key_value_rate(both).split(self.sizes, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in (self.query(now), key, value)
        )
        return query.softmax(-1), key.softmax(-1), value, rate.sigmoid()

    def forward(
        self,
        x: Float[Tensor, "B T H"],
        weights: Float[Tensor, "B heads D D"],
        before: Float[Tensor, "B H"],
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B heads D D"], Float[Tensor, "B H"]]:
        """Return the layer's output along a sequence, the weights after it and its last step."""
        now = self.norm(x)
        shifted = torch.cat([before.unsqueeze(1), now[:, :-1]], dim=1)
        columns = [part.transpose(1, 2) for part in self.project(now, shifted)]
        pieces = []
        for piece in zip(*(torch.split(one, STEPS_AT_ONCE, 2) for one in columns), strict=True):
            read, weights = corrected(weights, *piece)
            pieces.append(read)
        read = torch.cat(pieces, dim=2).transpose(1, 2).flatten(2)
        return self.finish(x, read), weights, now[:, -1]


def together(columns: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the states of layers together."""
    return {name: torch.stack([one[name] for one in columns], dim=1) for name in columns[0]}


def recalled(weights: Float[Tensor, "*B D E"], key: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
    """Return what weights give for a key."""
    return (key.unsqueeze(-2) @ weights).squeeze(-2)


def corrected(
    weights: Float[Tensor, "*B D E"],
    query: Float[Tensor, "*B C D"],
    key: Float[Tensor, "*B C D"],
    value: Float[Tensor, "*B C E"],
    rate: Float[Tensor, "*B C"],
) -> tuple[Float[Tensor, "*B C E"], Float[Tensor, "*B D E"]]:
    """Return what each of C steps reads, and the weights that they leave, without a loop.

    Step i adds keyᵢ uᵢᵀ to the weights, and what it corrects has the steps before it in it:

        uᵢ = rateᵢ (valueᵢ − Wᵀ keyᵢ − Σ_{j<i} (keyᵢ · keyⱼ) uⱼ)

    which is a triangular system in u (Yang et al. 2024).
    """
    rate = rate.unsqueeze(-1)
    overlap = (rate * key @ key.mT).tril(-1)
    added = torch.linalg.solve_triangular(
        overlap, rate * (value - key @ weights), upper=False, unitriangular=True
    )
    read = query @ weights + (query @ key.mT).tril() @ added
    return read, weights + key.mT @ added
