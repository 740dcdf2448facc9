"""Finished runs, read back and gathered into groups that differ by their seed alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from meta_rl.evaluation.result import EvalResult
from meta_rl.evaluation.statistics import (
    AGGREGATES,
    Estimate,
    Resampling,
    estimate,
    probability_of_improvement,
    resampled,
)
from meta_rl.experiment.identity import flat, learning_part
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.metrics import RecordedMetrics, read_metrics

Quantity: TypeAlias = str
"""The name of a score."""


@dataclass(frozen=True)
class Run:
    """One seed: its experiment and one of its evaluations."""

    path: Path
    experiment: Mapping[str, Any]
    """The experiment as plain data."""
    result: EvalResult
    remarks: tuple[str, ...] = ()
    """What readers must know of how it was read."""

    @property
    def name(self) -> str:
        """The folder's name, also where the path is `.`; what cannot be printed is escaped."""
        return "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in self.path.resolve().name
        )

    @property
    def seed(self) -> int:
        """The experiment's seed."""
        return int(self.experiment["seed"])

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """What was logged while training: the lines of metrics.jsonl, none if it is not there.

        Damaged lines are left out; `damaged_lines` counts them.
        """
        return self._recorded.rows

    @property
    def damaged_lines(self) -> int:
        """How many lines of metrics.jsonl cannot be read."""
        return len(self._recorded.damaged)

    @cached_property
    def _recorded(self) -> RecordedMetrics:
        return read_metrics(RunFolder(self.path).metrics, ("env_steps",))

    @property
    def wall_time_s(self) -> float | None:
        """Time of training up to the measured checkpoint, with evaluations; none if not logged."""
        return self._recorded.wall_time_s(self.result.env_steps)

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that must be equal for runs to be seeds of one agent, under dotted names."""
        learning = learning_part(self.experiment)
        protocol = {f"protocol.{k}": v for k, v in self.result.protocol.items()}
        return flat(learning) | protocol


@dataclass(frozen=True)
class Group:
    """Runs of one agent on one task distribution, of different seeds, measured alike.

    R runs, M tasks, S stages of adaptation.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> EvalResult:
        """The result of the first run: all have the same tasks, stages and protocol."""
        return self.runs[0].result

    @property
    def names(self) -> tuple[str, ...]:
        """Each task's name."""
        return self.first.names

    @property
    def strata(self) -> tuple[str, ...]:
        """What each task is one of, for intervals; see `EvalResult.strata`."""
        return self.first.strata

    @property
    def task_labels(self) -> tuple[str, ...]:
        """Each task's name with its index."""
        return self.first.task_labels

    def columns(self, row: str) -> list[int]:
        """Return the tasks that a row of `task_rows` speaks of: by their name, or by label."""
        pairs = zip(self.names, self.task_labels, strict=True)
        return [column for column, pair in enumerate(pairs) if row in pair]

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What was measured; the first decides which agent is better."""
        return tuple(score.name for score in self.first.judged_by)

    def scores(self, quantity: Quantity, stage: int | None = None) -> Float[np.ndarray, "R M"]:
        """Return each run's mean over the episodes and copies of each task.

        Args:
            stage: None means after all adaptation; see `EvalResult.after_adaptation`.
        """
        cells = [
            run.result.after_adaptation(quantity)
            if stage is None
            else run.result.scores[quantity][:, stage]
            for run in self.runs
        ]
        return np.stack([each.mean((0, 2)) for each in cells])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Gather runs that differ by their seed alone, in the order given.

    A seed counts once in a group: a second run of the same seed opens another one.
    """
    gathered: list[list[Run]] = []
    for run in runs:
        for members in gathered:
            if _alike(members[0], run) and all(other.seed != run.seed for other in members):
                members.append(run)
                break
        else:
            gathered.append([run])
    return [
        Group(label, tuple(members))
        for label, members in zip(_labels(gathered), gathered, strict=True)
    ]


def _alike(one: Run, other: Run) -> bool:
    ours, theirs = (
        (run.result.names, run.result.index, run.result.adaptation_episodes, run.description)
        for run in (one, other)
    )
    return ours == theirs


def _labels(gathered: Sequence[Sequence[Run]]) -> list[str]:
    """Return the folders' names without the seed, with what tells namesakes apart."""
    names = [_name(members) for members in gathered]
    labels = []
    for name, members in zip(names, gathered, strict=True):
        namesakes = [other[0] for other, of in zip(gathered, names, strict=True) if of == name]
        differing = differing_fields([run.description for run in namesakes])
        ours = [f"{field}={members[0].description.get(field)}" for field in differing]
        # A few fields explain a group; of unrelated experiments only the folder is worth reading.
        labels.append(f"{name} ({', '.join(ours)})" if 0 < len(ours) <= 3 else name)
    return [
        label if labels.count(label) == 1 else str(members[0].path)
        for label, members in zip(labels, gathered, strict=True)
    ]


def _name(members: Sequence[Run]) -> str:
    names = [run.name.removesuffix(f"-seed{run.seed}") or run.name for run in members]
    return max(names, key=names.count)


def differing_fields(descriptions: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the fields that are not the same in all, with their values."""
    names = dict.fromkeys(name for fields in descriptions for name in fields)
    columns = {name: [str(fields.get(name)) for fields in descriptions] for name in names}
    return {
        name: list(dict.fromkeys(values))
        for name, values in columns.items()
        if len(set(values)) > 1
    }


def told_differences(differing: Mapping[str, Sequence[str]]) -> str:
    """Return what `differing_fields` has found as text."""
    return "; ".join(f"{name}: {' / '.join(values)}" for name, values in differing.items())


def shared_quantities(groups: Sequence[Group]) -> list[Quantity]:
    """Return what was measured in all groups."""
    first, *others = groups
    return [q for q in first.quantities if all(q in group.quantities for group in others)]


def all_quantities(groups: Sequence[Group]) -> list[Quantity]:
    """Return what was measured in any group."""
    return list(dict.fromkeys(quantity for group in groups for quantity in group.quantities))


def title_of(quantity: Quantity) -> str:
    """Return what tables call a score."""
    return {"episode_return": "return"}.get(quantity, quantity.replace("_", " "))


def resampled_in(groups: Sequence[Group], resampling: Resampling) -> str:
    """Return what the intervals of groups are over, in words; none if there are no intervals."""
    each = [resampled([len(group.runs)], group.strata, resampling) for group in groups]
    found = [what for what in ("seeds", "tasks") if any(what in over for over in each)]
    if "seeds" in found and any("seeds" not in over for over in each):
        found[0] = "seeds (where there are several)"
    return " and ".join(found)


def task_rows(groups: Sequence[Group]) -> list[str]:
    """Return what a breakdown by task has a row for: names, or goals where all have one name."""
    names = dict.fromkeys(name for group in groups for name in group.names)
    if len(names) > 1:
        return list(names)
    return list(dict.fromkeys(label for group in groups for label in group.task_labels))


@dataclass(frozen=True)
class Row:
    """A group's aggregates of one quantity at one stage, over all tasks or over one row of them."""

    group: Group
    quantity: Quantity
    stage: int
    task: str | None
    """A row of `task_rows`; none means all tasks."""
    aggregates: Mapping[str, Estimate]
    """IQM, mean and median."""
    over: tuple[str, ...]
    """What the intervals are over: see `statistics.resampled`."""


def aggregate(
    group: Group,
    quantity: Quantity,
    stage: int,
    task: str | None = None,
    resampling: Resampling = "whole-runs",
) -> Row:
    """Aggregate a group's scores over seeds and tasks."""
    columns = range(len(group.names)) if task is None else group.columns(task)
    scores = [group.scores(quantity, stage)[:, list(columns)]]
    strata = [group.strata[column] for column in columns]
    found = {name: estimate(f, scores, strata, resampling) for name, f in AGGREGATES.items()}
    over = resampled([len(group.runs)], strata, resampling)
    return Row(group, quantity, stage, task, found, over)


def improvement(
    one: Group,
    other: Group,
    quantity: Quantity,
    stage: int | None = None,
    resampling: Resampling = "whole-runs",
) -> tuple[Estimate, tuple[str, ...]] | None:
    """Return the probability that one group beats another on the tasks that both have played.

    Returns:
        The estimate and what its interval is over; none if they have no task in common.
    """
    theirs = {label: column for column, label in enumerate(other.task_labels)}
    both = [
        (column, theirs[label]) for column, label in enumerate(one.task_labels) if label in theirs
    ]
    if not both:
        return None
    columns, other_columns = map(list, zip(*both, strict=True))
    strata = [one.strata[column] for column in columns]
    scores = [
        one.scores(quantity, stage)[:, columns],
        other.scores(quantity, stage)[:, other_columns],
    ]
    lower_is_better = {score.name for score in one.first.judged_by if not score.higher_is_better}
    if quantity in lower_is_better:
        scores = [-array for array in scores]
    runs = [len(array) for array in scores]
    found = estimate(probability_of_improvement, scores, strata, resampling)
    return found, resampled(runs, strata, resampling)
