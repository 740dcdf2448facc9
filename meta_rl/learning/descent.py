"""Steps of torch's optimizers: for parameters that are data, and for those of modules."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meta_rl.core.ranks import sum_gradients
from meta_rl.core.types import Params


class Descent:
    """Moves θ, in place, by one of torch's optimizers.

    Args:
        kind: The optimizer's class; settings go to it.
    """

    def __init__(self, kind: type[torch.optim.Optimizer], theta: Params, **settings: Any) -> None:
        make: Any = kind
        self.optimizer: torch.optim.Optimizer = make(theta.values(), **settings)

    def step(self, theta: Params, gradient: Params, lr: float | None = None) -> None:
        """Take one step against a gradient.

        Args:
            lr: Step size from now on; without it, that of the last step.
        """
        for name, parameter in theta.items():
            parameter.grad = gradient[name]
        if lr is not None:
            self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's moments."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None, theta: Params) -> None:
        """Restore the moments of θ, as a copy: the optimizer would write into them.

        Args:
            state: None, of a trimmed checkpoint, lets them begin anew.
        """
        self.optimizer.param_groups[0]["params"] = list(theta.values())
        self.optimizer.state.clear()
        if state is not None:
            self.optimizer.load_state_dict(deepcopy(dict(state)))


def shortened(gradient: Params, longest: float | None) -> Params:
    """Scale a gradient down to a norm of at most `longest`."""
    if longest is None:
        return gradient
    norm = torch.stack([value.square().sum() for value in gradient.values()]).sum().sqrt()
    scale = (longest / norm).clamp(max=1.0)
    return {name: value * scale for name, value in gradient.items()}


@contextmanager
def tiny_numbers_are_zero() -> Iterator[None]:
    """Let this thread take numbers below 1e-38 for zero; processors are far slower with them.

    A slope that flows back through a thousand steps of a GRU fades to such numbers and stays there.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def descend(
    optimizer: torch.optim.Optimizer,
    loss: Float[Tensor, ""],
    max_gradient_norm: float,
    clipped: Sequence[nn.Parameter] | None = None,
) -> Float[Tensor, ""]:
    """Take an optimizer's step on a loss; return the gradient's norm before clipping.

    Gradients are added up over ranks. Each rank differentiates what it has played.

    Args:
        max_gradient_norm: Longer gradients are scaled down to this norm.
        clipped: Parameters whose gradient is scaled down; without it, all of the optimizer's.
    """
    parameters = optimizer.param_groups[0]["params"]
    optimizer.zero_grad()
    with tiny_numbers_are_zero():
        torch.autograd.backward(loss)
    sum_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(clipped or parameters, max_gradient_norm)
    optimizer.step()
    return norm.detach()
