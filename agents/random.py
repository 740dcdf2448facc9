"""Control, the floor: uniform random actions."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Noise
from meta_rl.core.spaces import choices
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Phase, Rollout, Tasks, TimeStep
from meta_rl.learning.policy import choice_of


@dataclass(frozen=True)
class Config:
    """Control, the floor: random actions, uniform within their bounds."""


class Random:
    """Draws each action uniformly, and learns nothing."""

    copies_share_experience = True
    learns_over_ranks = True
    phases = (Phase(),)

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        self.choices = choices(spec.action_space)
        self.low, self.high = torch.tensor(spec.action_bounds, device=device)
        widths = torch.tensor(self.choices, dtype=torch.float32, device=device)
        self.entropy = (widths if self.choices else self.high - self.low).log().sum()
        """Entropy of an action, in nats: minus the log-probability or log-density of each."""

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Tensor]:
        """Know nothing."""
        return {}

    def act(
        self, context: dict[str, Tensor], timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], dict[str, Tensor]]:
        """Draw actions; without noise, take the middle of the range or the first choice."""
        middle = torch.zeros_like(timestep.prev_action)
        if self.choices:
            action = choice_of(middle, self.choices).sample(noise)
        else:
            drawn = middle if noise is None else noise.normal(middle.shape)
            # The normal distribution function makes normal noise uniform in [0, 1].
            action = self.low + (self.high - self.low) * torch.special.ndtr(drawn)
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
    low, high = spec.action_bounds
    if -inf in low or inf in high:
        raise UserError(
            "random actions need bounds, but those of this family are infinite; use another agent"
        )
    return Random(spec, device)
