"""Optimizers for parameters that are data."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

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
