"""Gradients of functions of parameters that are data."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.types import Params

OtherT = TypeVar("OtherT")


def grad_and_value(
    function: Callable[[Params], tuple[Tensor, OtherT]], theta: Params
) -> tuple[Params, Tensor, OtherT]:
    """Return the gradient of a function's first result at θ, that result, and the other one."""
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    with torch.enable_grad():
        value, other = function(leaves)
        row = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    freed: OtherT = pytree.tree_map(_detached, other)
    return dict(zip(leaves, row, strict=True)), value.detach(), freed


def _detached(leaf: object) -> object:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
