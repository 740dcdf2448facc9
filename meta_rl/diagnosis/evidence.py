"""What a few meta-iterations show, gathered with the trainer's own code."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Inspectable
from meta_rl.core.types import EnvSpec, MetaBatch, Rollout
from meta_rl.diagnosis.maths import Maths, compare, probe
from meta_rl.experiment.config import Experiment
from meta_rl.learning.trust_region import ravel
from meta_rl.runs.metrics import read_metrics
from meta_rl.runs.trained import restore
from meta_rl.training.rejected import Rejected
from meta_rl.training.temporary import temporary_trainer

Row: TypeAlias = Mapping[str, float | int | None]
"""The metrics of one meta-update by name; null where the log could not hold the number."""

NORMALIZING = ("normalize_observations", "normalize_inputs")
"""Settings by which agents scale what their networks observe."""


@dataclass
class Evidence:
    """What the trial meta-iterations showed, and what the run had logged before them."""

    spec: EnvSpec
    sees_tasks: bool = False
    """Whether the agent is an oracle, which has nothing to find out."""
    normalizes: bool = False
    """Whether the agent scales what its networks observe."""
    recorded: list[Row] = field(default_factory=list)
    """Metrics of the run's own meta-updates."""
    rows: list[Row] = field(default_factory=list)
    """Metrics of the trial updates that were not rejected."""
    batches: list[MetaBatch] = field(default_factory=list)
    """Whole meta-batches."""
    broken: list[Rollout] = field(default_factory=list)
    """Rollouts of the meta-batches that were rejected before they were whole."""
    rejected: list[str] = field(default_factory=list)
    """Why trial updates were rejected."""
    maths: Maths | None = None
    """Of the last trial meta-iteration, if the agent offers it."""
    movement: float | None = None
    """How far the last trial update moved θ, in lengths of θ per million env steps, likewise."""

    @property
    def rollouts(self) -> list[Rollout]:
        """All experience."""
        return [rollout for batch in self.batches for rollout in batch.rollouts] + self.broken

    def mean(self, metric: str) -> float | None:
        """Return a metric's mean over the trial updates; none if the agent does not report it."""
        values = [value for row in self.rows if (value := row.get(metric)) is not None]
        return sum(values) / len(values) if values else None

    def share(self, happened: Callable[[Rollout], Shaped[Tensor, "T M N"]]) -> float:
        """Return the share of steps at which something happened."""
        count = sum(float((happened(r).double() * r.valid).sum()) for r in self.rollouts)
        return count / self.steps if self.rollouts else math.nan

    @property
    def steps(self) -> int:
        """Environment steps."""
        return sum(int(rollout.valid.sum()) for rollout in self.rollouts)

    @property
    def episodes(self) -> int:
        """Whole episodes."""
        return sum(int(rollout.last.sum()) for rollout in self.rollouts)

    def gains(self) -> NDArray[np.float64]:
        """Return what adaptation added to the mean return, for each task of the batches.

        A task that was played several times counts once, with its mean.
        """
        if any(len(batch.rollouts) < 2 for batch in self.batches):
            return np.zeros(0)
        found: dict[str, list[float]] = {}
        for batch in self.batches:
            gains = _mean_return(batch.rollouts[-1]) - _mean_return(batch.rollouts[0])
            for task, gain in zip(batch.tasks, gains.tolist(), strict=True):
                found.setdefault(task.label, []).append(gain)
        return np.array([np.mean(each) for each in found.values()])


def _mean_return(rollout: Rollout) -> Float[Tensor, "M"]:
    """Mean over a task's episodes."""
    return (rollout.reward * rollout.valid).sum((0, 2)) / rollout.last.sum((0, 2))


def examine(
    experiment: Experiment[Any, Any],
    iterations: int,
    agent_state: Mapping[str, Any] | None = None,
    recorded: Sequence[Row] = (),
) -> Evidence:
    """Run some meta-iterations in a temporary folder and keep what they show.

    Args:
        agent_state: An agent's state to start from; none starts untrained.
        recorded: What the run had logged.
    """
    with temporary_trainer(experiment) as trainer:
        agent = trainer.agent
        if agent_state is not None:
            restore(agent, agent_state, experiment.agent_name)
        evidence = Evidence(
            trainer.distribution.spec,
            getattr(agent, "sees_tasks", False),
            any(getattr(experiment.agent, name, False) for name in NORMALIZING),
            list(recorded),
        )
        for number in range(iterations):
            before = pytree.tree_map(
                lambda x: x.clone() if isinstance(x, Tensor) else x, agent.state_dict()
            )
            try:
                batch = trainer.collect()
            except Rejected as problem:
                evidence.broken += problem.batch.rollouts
                evidence.rejected.append(str(problem))
                continue
            evidence.batches.append(batch)
            # The last one: normalizers and optimizers are no longer at their start.
            opened = agent if isinstance(agent, Inspectable) and number == iterations - 1 else None
            if opened is not None:
                evidence.maths = compare(opened.surrogate(probe(batch)))
                theta = _theta(opened, batch)
            try:
                metrics = trainer.update(batch)
                evidence.rows.append({name: float(value) for name, value in metrics.items()})
            except Rejected as problem:
                agent.load_state_dict(before)
                evidence.rejected.append(str(problem))
                continue
            if opened is not None:
                moved = float((_theta(opened, batch) - theta).norm() / theta.norm())
                steps = sum(int(rollout.valid.sum()) for rollout in batch.rollouts)
                evidence.movement = moved * 1e6 / steps
    return evidence


def _theta(agent: Inspectable, batch: MetaBatch) -> Float[Tensor, "D"]:
    """Return a copy of the parameters that updates move, as one vector."""
    theta = agent.surrogate(probe(batch)).theta
    return ravel({name: value.detach() for name, value in theta.items()}).clone()


def recorded_updates(path: Path) -> list[Row]:
    """Read the meta-updates from a run's metrics.jsonl."""
    recorded = read_metrics(path)
    if recorded.damaged and not recorded.rows:
        raise UserError(f"cannot read {path}: no line of it is whole; is it the run's own log?")
    # The line of the final evaluation is none of an update.
    return [row for row in recorded.rows if "train/rejected_in_a_row" in row]
