"""The MLPs of many tasks on whole rollouts, and their exact first and second derivatives.

Automatic differentiation of a meta-gradient moves every intermediate result through memory, which
takes room and time. Here the steps are worked through in pieces that mostly stay in the cache,
several at a time where torch has several threads; on a GPU all steps are one piece.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from meta_rl.core.threads import side_by_side
from meta_rl.core.types import Params


class Activation(NamedTuple):
    """A nonlinearity f whose derivatives are functions of its value a = f(z)."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    """(x, a) ↦ x f'(z)."""
    bend: float
    """f''(z) = bend · a f'(z)."""


ACTIVATIONS = {
    "tanh": Activation(torch.tanh, torch.ops.aten.tanh_backward, -2.0),
    "relu": Activation(torch.relu, lambda x, a: torch.ops.aten.threshold_backward(x, a, 0.0), 0.0),
}


Layers: TypeAlias = list[tuple[Tensor, Tensor]]
"""Weights (M, out, in) and biases (M, out) of each layer, or changes of them."""


def layer_names(depth: int) -> list[str]:
    """Return the names of the parameters of `depth` layers, in the order of `flat`."""
    return [f"layers.{i}.{kind}" for i in range(depth) for kind in ("weight", "bias")]


def flat(layers: Layers) -> list[Tensor]:
    """Return weights and biases in one row."""
    return [part for layer in layers for part in layer]


def layers_of(params: Params, depth: int, tasks: slice = slice(None)) -> Layers:
    """Return the layers of some of the tasks."""
    row = [params[name][tasks] for name in layer_names(depth)]
    return list(zip(row[::2], row[1::2], strict=True))


@dataclass(frozen=True)
class Piece:
    """Some steps of some tasks."""

    tasks: slice
    steps: slice

    def of(self, column: Shaped[Tensor, "M B *rest"]) -> Shaped[Tensor, "m b *rest"]:
        """Return the piece of a column."""
        return column[self.tasks, self.steps]


AT_ONCE = 2**18
"""Numbers that a piece may have in each layer on a CPU: 1 MB of them. That is small enough for the
cache, and large enough that Python's overhead does not count."""


def pieces(obs: Float[Tensor, "M B O"], layers: Layers) -> list[Piece]:
    """Cut the steps of all tasks into pieces, the same for any number of threads."""
    tasks, steps = obs.shape[:2]
    if obs.device.type != "cpu":
        return [Piece(slice(0, tasks), slice(0, steps))]
    widest = max(obs.shape[-1], *(weight.shape[1] for weight, _ in layers))
    rows = max(AT_ONCE // widest, 1)
    at_once = max(rows // steps, 1)
    return [
        Piece(slice(m, m + at_once), slice(t, t + rows))
        for m in range(0, tasks, at_once)
        for t in range(0, steps, rows)
    ]


class Pass:
    """The forward pass of one piece, and derivatives of its output.

    Args:
        inputs: Inputs of the first layer.
    """

    def __init__(
        self, layers: Layers, activation: Activation, inputs: Float[Tensor, "m b O"]
    ) -> None:
        self.layers = layers
        self.activation = activation
        self.seen = [inputs]
        """Inputs of each layer."""
        for weight, bias in layers[:-1]:
            self.seen.append(activation.value(affine(weight, bias, self.seen[-1])))
        self.output: Float[Tensor, "m b A"] = affine(*layers[-1], self.seen[-1])

    def push(self, tangent: Layers) -> tuple[Float[Tensor, "m b A"], list[Tensor | None]]:
        """Return the changes of the output and of all inputs for a change u of the layers."""
        moved: list[Tensor | None] = [None]  # the observations stay
        for i, (weight, bias) in enumerate(tangent):
            change = affine(weight, bias, self.seen[i])
            before = moved[-1]
            if before is not None:
                change = change.baddbmm_(before, self.layers[i][0].mT)
            if i < len(tangent) - 1:
                moved.append(self.activation.slope(change, self.seen[i + 1]))
        return change, moved

    def pull(self, slope: Float[Tensor, "m b A"]) -> tuple[Layers, list[Tensor]]:
        """Return Jᵀ s for the slope s of a loss in the output: its gradient in the layers.

        Returns:
            With it, the loss's slopes in the inputs of each layer but the first.
        """
        gradient: Layers = []
        slopes: list[Tensor] = []
        for i in reversed(range(len(self.layers))):
            gradient.append((slope.mT @ self.seen[i], slope.sum(1)))
            if i > 0:
                slopes.append(slope @ self.layers[i][0])
                slope = self.activation.slope(slopes[-1], self.seen[i])
        return gradient[::-1], slopes[::-1]

    def bent(
        self,
        slope: Float[Tensor, "m b A"],
        slopes: list[Tensor],
        tangent: Layers,
        moved: list[Tensor | None],
        change: Float[Tensor, "m b A"],
    ) -> Layers:
        """Return the change of `pull`'s gradient along u: Pearlmutter's (1994) backward pass.

        Args:
            slope: The argument of `pull`; `slopes` is its second result.
            tangent: u, the argument of `push`; `moved` is its second result.
            change: Change of the slope along u.
        """
        result: Layers = []
        for i in reversed(range(len(self.layers))):
            weight, seen, moving = change.mT @ self.seen[i], self.seen[i], moved[i]
            if moving is not None:
                weight = weight.baddbmm_(slope.mT, moving)
            result.append((weight, change.sum(1)))
            if moving is None:
                continue
            upstream = slopes[i - 1]
            change = (change @ self.layers[i][0]).baddbmm_(slope, tangent[i][0])
            change = self.activation.slope(change, seen)
            if self.activation.bend:  # f'' ∂z = bend · a ∂a
                change.addcmul_(upstream * seen, moving, value=self.activation.bend)
            slope = self.activation.slope(upstream, seen)
        return result[::-1]


def affine(
    weight: Float[Tensor, "m o i"], bias: Float[Tensor, "m o"], x: Float[Tensor, "m b i"]
) -> Float[Tensor, "m b o"]:
    """Return W x + b of each task."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


class Passes:
    """The forward passes of all pieces through the networks of their tasks.

    Args:
        kept: Whether to keep what derivatives need; otherwise only the outputs are kept.
    """

    def __init__(
        self, layers: Layers, activation: Activation, obs: Float[Tensor, "M B O"], kept: bool
    ) -> None:
        self.depth = len(layers)
        self.shape = obs.shape[:2]
        self.pieces = pieces(obs, layers)

        def through(piece: Piece) -> Pass:
            own = [(weight[piece.tasks], bias[piece.tasks]) for weight, bias in layers]
            each = Pass(own, activation, piece.of(obs))
            if not kept:
                each.seen.clear()
            return each

        self.each = side_by_side(through, self.pieces)

    @property
    def output(self) -> Float[Tensor, "M B A"]:
        """The networks' outputs."""
        return self.joined([each.output for each in self.each])

    def push(self, tangent: Params) -> Float[Tensor, "M B A"]:
        """Return J u: the change of the output along u."""

        def pushed(i: int) -> Tensor:
            return self.each[i].push(layers_of(tangent, self.depth, self.pieces[i].tasks))[0]

        return self.joined(side_by_side(pushed, range(len(self.each))))

    def pull(self, slope: Float[Tensor, "M B A"]) -> Params:
        """Return Jᵀ s: the gradient of a loss whose slope in the output is s."""

        def pulled(i: int) -> list[Tensor]:
            return flat(self.each[i].pull(self.pieces[i].of(slope))[0])

        parts = side_by_side(pulled, range(len(self.each)))
        totals = added(self.pieces, parts, self.shape[0])
        return dict(zip(layer_names(self.depth), totals, strict=True))

    def joined(self, parts: Sequence[Tensor]) -> Float[Tensor, "M B A"]:
        """Join the steps of all pieces."""
        whole = parts[0].new_empty(*self.shape, *parts[0].shape[2:])
        for piece, part in zip(self.pieces, parts, strict=True):
            whole[piece.tasks, piece.steps] = part
        return whole


def added(pieces: Sequence[Piece], parts: Sequence[Sequence[Tensor]], tasks: int) -> list[Tensor]:
    """Add up the pieces' parts of their tasks' parameters, always in the same order."""
    totals = []
    for each in zip(*parts, strict=True):
        total = each[0].new_zeros(tasks, *each[0].shape[1:])
        for piece, part in zip(pieces, each, strict=True):
            total[piece.tasks] += part
        totals.append(total)
    return totals
