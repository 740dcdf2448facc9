"""Actions from nowhere: the floor."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.seeding import standard_normal
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Phase, Rollout, Tasks, TimeStep


@dataclass(frozen=True)
class Config:
    """Control: actions uniform within their bounds, whatever is observed: the floor."""


class Random:
    """Draws each action uniformly; has nothing to learn."""

    copies_share_experience = True
    phases = (Phase(),)

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        bounds = torch.tensor([spec.action_low, spec.action_high], device=device)
        self.low, self.high = bounds
        self.entropy = (self.high - self.low).log().sum()
        """Differential entropy, in nats: minus the log-density of every action."""

    def begin(self, tasks: Tasks, copies: int) -> dict[str, Tensor]:
        """Know nothing."""
        return {}

    def act(
        self, context: dict[str, Tensor], timestep: TimeStep, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], dict[str, Tensor]]:
        """Draw actions; every one is a mode, of which the middle is taken."""
        middle = torch.zeros_like(timestep.prev_action)
        noise = middle
        if generator is not None:
            noise = standard_normal(middle.shape, generator, middle.device)
        # A variable's own distribution function makes it uniform in [0, 1].
        action = self.low + (self.high - self.low) * torch.special.ndtr(noise)
        return action, -self.entropy.expand(action.shape[:-1]), context

    def adapt(self, context: dict[str, Tensor], rollout: Rollout) -> dict[str, Tensor]:
        """Learn nothing."""
        return context

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Learn nothing."""
        return {"policy/entropy": self.entropy}

    def state_dict(self) -> dict[str, Any]:
        """There is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is no state."""


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> Random:
    """Make the agent."""
    if -inf in spec.action_low or inf in spec.action_high:
        raise UserError("random actions need bounds, but those of this family are infinite")
    return Random(spec, device)
