"""How lives are laid out in which tasks change, to measure agents at each time since a change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.lives import Changes, changes_of
from meta_rl.core.protocols import MetaAgent, TaskDistribution
from meta_rl.core.types import Score
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.adaptation import phase_at

LEARNING = "learning"
"""Key of a protocol that tells how an agent learned in its lives: its own affair, so that agents
which learn otherwise compare."""
MOST_TIMES = 20
"""Times since the last change that are told apart; more are pooled, neighbour with neighbour."""
SINCE_CHANGE = "since_the_change_in"
"""Key of a protocol whose stages are times since a task changed: their unit, episodes or steps."""


@dataclass(frozen=True)
class LifePlan:
    """How the lives are laid out: so many changes, so much time between them."""

    changes: Changes
    """Regular ones."""
    followed: int
    """Changes of each life that are measured; what comes before the first is not."""
    columns: int
    """Lives of each task (N)."""
    round_episodes: int | None
    """Episodes that an agent whose copies learn together learns from at once."""
    learning: str
    """How the agent learns, in a word."""

    @property
    def in_steps(self) -> bool:
        """Whether tasks change within episodes, so that time is counted in steps."""
        return self.changes.config.in_steps

    @property
    def between(self) -> int:
        """Episodes or steps between two changes."""
        return int(self.changes.config.number)

    def steps(self, horizon: int) -> int:
        """Return the env steps of one life, if no episode ends early."""
        return (self.followed + 1) * self.between * (1 if self.in_steps else horizon)

    @property
    def times(self) -> tuple[int, ...]:
        """Time since the last change at which each stage begins, in episodes or steps."""
        return tuple(self._edges[:-1].tolist())

    @property
    def shape(self) -> tuple[int, int]:
        """(E, S): changes, and times since each."""
        return self.followed, len(self.times)

    def judged_by(self, scores: Sequence[Score]) -> tuple[Score, ...]:
        """Return what is measured at each time: episodes' scores, or what steps bring."""
        if not self.in_steps:
            return tuple(scores)
        return tuple(
            Score(
                f"{score.quantity}_of_step",
                f"{score.quantity} of a step",
                score.quantity,
                "mean",
                score.higher_is_better,
            )
            for score in scores
        )

    def protocol(self) -> dict[str, Any]:
        """Return what of the layout a number depends on."""
        return {
            SINCE_CHANGE: "steps" if self.in_steps else "episodes",
            "between_changes": self.between,
            "changes_followed": self.followed,
            "lives_of_a_task": self.columns,
            LEARNING: self.learning,
        }

    def pooled(self, values: Float[Tensor, "L M N"]) -> Float[Tensor, "E S M N"]:
        """Return means over each time since a change, given all episodes or steps of lives."""
        whole = values.reshape(self.followed + 1, self.between, *values.shape[1:])[1:].double()
        edges = self._edges.tolist()
        return torch.stack(
            [whole[:, start:end].mean(1) for start, end in pairwise(edges)],
            dim=1,
        )

    @property
    def _edges(self) -> NDArray[np.int64]:
        count = min(self.between, MOST_TIMES)
        return np.round(np.linspace(0, self.between, count + 1)).astype(np.int64)


def plan_lives(
    agent: MetaAgent,
    distribution: TaskDistribution,
    config: EvaluationConfig,
    copies: int,
) -> LifePlan | None:
    """Return how lives are laid out, or None if tasks stay as they are.

    Args:
        copies: Copies of each task in training.
    """
    changes = changes_of(distribution)
    if changes is None:
        return None
    if config.actions != "sampled" or config.evaluation_episodes is not None:
        raise UserError(
            "where tasks change, an agent is measured by the episodes that it learns from: leave "
            "out evaluation.evaluation_episodes and evaluation.actions deterministic"
        )
    settings, horizon = changes.config, distribution.spec.horizon
    if settings.mean_steps is None:
        every = f"{int(settings.number)} episodes"
    elif settings.mean_steps < horizon:
        every = f"{max(1, round(settings.mean_steps))} steps"
    else:
        every = f"{max(1, round(settings.mean_steps / horizon))} episodes"
    shared = agent.copies_share_experience
    episodes = copies * phase_at(agent, 0).episodes
    if config.adaptation_steps == 0:
        learning = "never"
    elif not shared:
        learning = "memory"
    elif config.relearn == "always":
        learning = f"always-from-{episodes}"
    else:
        learning = f"after_a_drop-{config.adaptation_steps}-times-from-{episodes}"
    return LifePlan(
        Changes(changes.distribution, replace(settings, every=every)),
        config.changes,
        1 if shared else config.copies or 1,
        episodes if shared else None,
        learning,
    )
