"""The gradient of each task's own loss, and products with its derivative, the Hessian."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meta_rl.core.distributions import Distribution
from meta_rl.core.threads import side_by_side
from meta_rl.core.types import Params, map_tensors
from meta_rl.learning.mlp import (
    Pass,
    Piece,
    added,
    flat,
    layers_of,
    pieces,
)
from meta_rl.learning.policy import MLPPolicy
from meta_rl.learning.samples import Samples

InnerLoss: TypeAlias = Callable[[Distribution, Samples], Tensor]
"""L(π_φ), a sum over steps and tasks. Tasks share no parameters, so the sum keeps their gradients
apart."""


class Slopes(NamedTuple):
    """What a piece keeps for products with the Hessian."""

    taken: Pass
    leaves: list[Tensor]
    """The network's output and, if there is one, log σ."""
    recorded: Sequence[Tensor]
    """Slopes of the loss in the leaves, as functions of the leaves."""
    upstream: list[Tensor]
    """Slopes of the loss in the inputs of each layer but the first."""


class TaskGradient:
    """∇L(φ) of each task, and products with its Jacobian ∇²L(φ).

    Args:
        phi: Parameters with leading axis M.
        kept: Whether to keep what products need.
    """

    def __init__(
        self, policy: MLPPolicy, loss: InnerLoss, phi: Params, samples: Samples, kept: bool
    ) -> None:
        self.policy = policy
        self.depth = len(policy.layers)
        self.names = policy.parameter_names
        self.rest = self.names[2 * self.depth :]  # log_std, if there is one
        self.tasks = len(samples.obs)
        self.pieces = pieces(samples.obs, layers_of(phi, self.depth))

        def of(piece: Piece) -> tuple[list[Tensor], Slopes | None]:
            taken = Pass(
                layers_of(phi, self.depth, piece.tasks), policy.activation, piece.of(samples.obs)
            )
            leaves = [
                taken.output,
                *(phi[name][piece.tasks] for name in self.rest),
            ]
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            with torch.enable_grad():
                value = loss(policy.acting(*leaves), map_tensors(piece.of, samples))
                recorded = torch.autograd.grad(value, leaves, create_graph=kept)
            on_output, *on_log_std = (slope.detach() for slope in recorded)
            gradient, upstream = taken.pull(on_output)
            slopes = Slopes(taken, leaves, recorded, upstream)
            return [*flat(gradient), *on_log_std], slopes if kept else None

        found = side_by_side(of, self.pieces)
        self.value = self.summed([gradient for gradient, _ in found])
        self.kept = [slopes for _, slopes in found]

    def product(self, tangent: Params) -> Params:
        """Return ∇²L(φ) u of each task."""

        def of(i: int) -> list[Tensor]:
            slopes, tasks = self.kept[i], self.pieces[i].tasks
            assert slopes is not None, "products were not asked for"
            layers = layers_of(tangent, self.depth, tasks)
            output, moved = slopes.taken.push(layers)
            along = [output, *(tangent[name][tasks] for name in self.rest)]
            with torch.enable_grad():
                change, *on_log_std = torch.autograd.grad(
                    slopes.recorded, slopes.leaves, along, retain_graph=True, materialize_grads=True
                )
            bent = slopes.taken.bent(
                slopes.recorded[0].detach(), slopes.upstream, layers, moved, change
            )
            return [*flat(bent), *on_log_std]

        return self.summed(side_by_side(of, range(len(self.pieces))))

    def summed(self, parts: Sequence[Sequence[Tensor]]) -> Params:
        """Add up the parts of all pieces, by the parameters' names."""
        return dict(zip(self.names, added(self.pieces, parts, self.tasks), strict=True))


def task_gradient(policy: MLPPolicy, loss: InnerLoss, phi: Params, samples: Samples) -> Params:
    """Return each task's ∇L(φ) in the policy's parameters; differentiable in them, once."""
    row = [phi[name] for name in policy.parameter_names]
    through: Any = _TaskGradient.apply  # untyped in torch
    return dict(zip(policy.parameter_names, through(policy, loss, samples, *row), strict=True))


class _TaskGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, policy: MLPPolicy, loss: InnerLoss, samples: Samples, *row: Tensor
    ) -> tuple[Tensor, ...]:
        phi = dict(zip(policy.parameter_names, row, strict=True))
        gradient = TaskGradient(policy, loss, phi, samples, kept=any(ctx.needs_input_grad))
        ctx.gradient = gradient
        # Without a copy, the result and its history would refer to each other: a cycle.
        return tuple(value.clone() for value in gradient.value.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *along: Tensor) -> tuple[Any, ...]:
        gradient: TaskGradient = ctx.gradient
        product = gradient.product(dict(zip(gradient.names, along, strict=True)))
        return None, None, None, *product.values()
