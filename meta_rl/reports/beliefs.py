"""What agents come to believe of the tasks of a split, for agents that tell (`TellsBelief`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.figure import Figure as Drawing
from torch import Tensor

from meta_rl.core.protocols import MetaAgent, TellsBelief
from meta_rl.core.seeding import Noise, Streams
from meta_rl.core.types import Context, Rollout, Tasks, TimeStep
from meta_rl.learning.contrastive import nearest_task
from meta_rl.learning.trials import without_gaps
from meta_rl.reports.names import as_it_stands
from meta_rl.reports.page import Figure, Section, anchor
from meta_rl.reports.tables import TextTable
from meta_rl.rollouts.adaptation import Adaptation
from meta_rl.runs.trained import TrainedAgent

TASKS, COPIES = 20, 5
"""Tasks of the split that are played, and trials of each."""
SHOWN = 4
"""Tasks whose belief is drawn step by step."""


@dataclass(frozen=True)
class Beliefs:
    """What was believed after each step of trials on M tasks, N copies each.

    Steps lie without gaps between episodes; all padding is at the end.
    """

    label: str
    tasks: Tasks
    mean: Float[Tensor, "T M N L"]
    std: Float[Tensor, "T M N L"] | None
    first: Bool[Tensor, "T M N"]
    valid: Bool[Tensor, "T M N"]

    def at_the_end(self, column: Float[Tensor, "T M N L"]) -> Float[Tensor, "M N L"]:
        """Return what a column holds at the last step of each trial."""
        last = (self.valid.sum(0) - 1).view(1, *self.valid.shape[1:], 1)
        return column.gather(0, last.expand(-1, -1, -1, column.shape[-1]))[0]

    def nearest_task_accuracy(self) -> float:
        """Return the share of trials whose last belief lies nearest to the others of its task."""
        ends = self.at_the_end(self.mean)
        task = torch.arange(len(ends)).repeat_interleave(ends.shape[1])
        return float(nearest_task(ends.flatten(0, 1), task).float().mean())


class _Watched:
    """An agent whose belief is noted after each step of acting."""

    def __init__(self, agent: MetaAgent) -> None:
        self._agent = agent
        self.means: list[Tensor] = []
        self.stds: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Tensor, Tensor, Context]:
        """Act, and note what is believed then."""
        action, log_prob, context = self._agent.act(context, timestep, noise)
        assert isinstance(self._agent, TellsBelief)
        belief = self._agent.belief(context)
        self.means.append(belief.mean.clone())
        if belief.std is not None:
            self.stds.append(belief.std.clone())
        return action, log_prob, context


def watch_beliefs(trained: TrainedAgent, tasks: Tasks, label: str, seed: int = 0) -> Beliefs | None:
    """Let an agent play trials, and return what it believed; None if it does not tell.

    Args:
        label: What the report calls the agent.
    """
    if not isinstance(trained.agent, TellsBelief):
        return None
    watched: Any = _Watched(trained.agent)
    streams = Streams(seed, trained.device, "beliefs")
    collector = trained.distribution.make_collector(trained.device, 1)
    try:
        batch = Adaptation(watched, collector, tasks, COPIES, streams).complete()
    finally:
        collector.close()
    rollout = Rollout.concatenate(batch.rollouts)
    pack = without_gaps(rollout.valid)
    return Beliefs(
        label,
        tasks,
        pack(torch.stack(watched.means)).cpu(),
        pack(torch.stack(watched.stds)).cpu() if watched.stds else None,
        pack(rollout.first).cpu(),
        pack(rollout.valid).cpu(),
    )


def beliefs_section(beliefs: Sequence[Beliefs]) -> Section:
    """Return what agents believed of tasks: along a trial, and at its end."""
    return Section(
        "Beliefs",
        text=f"What the first run of a group infers of the split's first tasks, in a space of its "
        f"own: {COPIES} trials of each task.",
        tables=[
            TextTable(
                "At the end of a trial",
                ["group", "tasks", "dimensions", "nearest task is its own", "standard deviation"],
                [
                    [
                        each.label,
                        str(len(each.tasks)),
                        str(each.mean.shape[-1]),
                        f"{each.nearest_task_accuracy():.2f}",
                        "–" if each.std is None else f"{each.at_the_end(each.std).mean():.3f}",
                    ]
                    for each in beliefs
                ],
            )
        ],
        figures=[figure for each in beliefs for figure in _figures(each)],
    )


def _figures(beliefs: Beliefs) -> list[Figure]:
    label, name = beliefs.label, anchor(beliefs.label)
    bands = "" if beliefs.std is None else ". Bands, and below: one standard deviation"
    return [
        Figure(
            f"belief-{name}",
            f"What {label} believes of a task along one trial, a line for each dimension{bands}. "
            f"Dotted: a new episode.",
            f"Line charts of the belief of {label} against steps, one panel for each task",
            along_the_trial(beliefs),
        ),
        Figure(
            f"belief-space-{name}",
            f"The last belief of each trial of {label}, a colour for each task; along the two "
            f"directions in which beliefs differ most.",
            f"Scatter plot of the beliefs of {label} at the ends of trials",
            in_the_plane(beliefs),
        ),
    ]


def along_the_trial(beliefs: Beliefs) -> Drawing:
    """Draw the belief in the first trial of a few tasks, and under it how uncertain it is."""
    tasks, rows = min(SHOWN, len(beliefs.tasks)), 1 if beliefs.std is None else 2
    figure = Drawing(figsize=(3.4 * tasks, 0.4 + 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, tasks, squeeze=False, sharex="col", sharey="row")
    for m, (column, task) in enumerate(zip(axes.T, beliefs.tasks, strict=False)):
        played = beliefs.valid[:, m, 0]
        mean = beliefs.mean[played, m, 0].numpy()
        lines = column[0].plot(mean, linewidth=1)
        if beliefs.std is not None:
            std = beliefs.std[played, m, 0].numpy()
            for dimension, line in enumerate(lines):
                low, high = (mean[:, dimension] + sign * std[:, dimension] for sign in (-1, 1))
                column[0].fill_between(
                    range(len(mean)), low, high, alpha=0.25, color=line.get_color(), linewidth=0
                )
            column[1].semilogy(std, linewidth=1)
        for axis in column:
            for start in np.flatnonzero(beliefs.first[played, m, 0].numpy())[1:]:
                axis.axvline(start, linestyle=":", color="grey")
        shown, font = as_it_stands(task.label)
        column[0].set_title(shown, fontsize="small", **font)
        column[-1].set_xlabel("steps of the trial")
    for axis, what in zip(axes[:, 0], ("belief", "standard deviation"), strict=False):
        axis.set_ylabel(what)
    return figure


def in_the_plane(beliefs: Beliefs) -> Drawing:
    """Draw the last mean of each trial along the first two principal components of them all."""
    points = beliefs.at_the_end(beliefs.mean)
    tasks, copies, _ = points.shape
    centred = (points - points.mean((0, 1))).flatten(0, 1)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    plane = torch.zeros(tasks * copies, 2)  # a belief may have a single dimension
    plane[:, : len(directions)] = centred @ directions.T
    x, y = plane.view(tasks, copies, 2).unbind(-1)
    figure = Drawing(figsize=(4.8, 4.0), layout="constrained")
    axis = figure.subplots()
    for m in range(tasks):
        axis.scatter(x[m], y[m], s=18, color=colormaps["turbo"]((m + 0.5) / tasks))
    axis.set_xlabel("first principal component")
    axis.set_ylabel("second")
    return figure
