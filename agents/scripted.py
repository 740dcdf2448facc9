"""Control, the ceiling: the family's own expert, which is shown each task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Expert
from meta_rl.core.seeding import Noise
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Phase, Rollout, Tasks, TimeStep
from meta_rl.experiment import catalog


@dataclass(frozen=True)
class Config:
    """Control, the ceiling: the family's own expert, which is shown each task."""


class Scripted:
    """Acts as the expert does, and learns nothing."""

    copies_share_experience = True
    learns_over_ranks = True
    sees_tasks = True
    phases = (Phase(),)

    def __init__(self, expert: Expert, device: torch.device) -> None:
        self.expert, self.device = expert, device

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Tensor]:
        """Let the expert look at the tasks."""
        return {"knowledge": self.expert.knowledge(tasks).to(self.device)}

    def act(
        self, context: dict[str, Tensor], timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], dict[str, Tensor]]:
        """Act as the expert, without noise; the log-probability is 0 and means nothing."""
        action = self.expert.act(context["knowledge"], timestep.obs)
        return action, torch.zeros_like(timestep.prev_reward), context

    def adapt(self, context: dict[str, Tensor], rollout: Rollout) -> dict[str, Tensor]:
        """Learn nothing."""
        return context

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Learn nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """There is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is no state."""


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> Scripted:
    """Make the agent, if the family has experts."""
    expert = getattr(catalog.load("envs", spec.family), "expert", None) if spec.family else None
    if expert is None:
        raise UserError(
            f"the family {spec.family or 'of these tasks'} has no expert for the agent scripted; "
            f"choose another agent, or add expert() to its module (meta_rl.core.protocols.Expert)"
        )
    return Scripted(expert(), device)
