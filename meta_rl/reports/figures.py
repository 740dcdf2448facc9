"""Pictures of groups of runs. Each function returns a matplotlib figure that nothing else holds.

`figure.savefig(path)` writes it; no display is needed, and there is nothing to close.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from meta_rl.core.words import counted
from meta_rl.evaluation.comparison import (
    Group,
    Quantity,
    resampled_in,
    shared_quantities,
    task_rows,
    title_of,
)
from meta_rl.evaluation.continual import StreamRecord
from meta_rl.evaluation.protocol import benchmark_of
from meta_rl.evaluation.statistics import (
    Resampling,
    bootstrap_interval,
    estimate,
    mean,
    performance_profile,
)
from meta_rl.reports.names import LOGGED, as_it_stands, label_ticks

LABELS = {
    "success": "share of episodes that succeed",
    "episode_return": "return of an episode",
    "adaptation episodes": "episodes of the task learned from",
}

LETTER_INCHES = 5 / 72
"""Width of a small letter."""

LINES = {"-": "o", "--": "s", ":": "^", "-.": "D"}
"""Lines and their markers: another one for every ten groups, when the colors begin anew."""


def label_of(quantity: Quantity) -> str:
    """Return what an axis calls a score."""
    return LABELS.get(quantity, title_of(quantity))


def adaptation_curves(
    groups: Sequence[Group],
    quantities: Sequence[Quantity] | None = None,
    resampling: Resampling = "whole-runs",
) -> Figure:
    """Draw means at every stage against the episodes that a policy has learned from.

    Args:
        quantities: A panel each; none means what all groups have.
    """
    quantities = shared_quantities(groups) if quantities is None else quantities
    figure, axes = _panels(1, len(quantities))
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for style, group in _styled(groups):
            stages = range(len(group.first.adaptation_episodes))
            points = [
                estimate(mean, [group.scores(quantity, stage)], group.strata, resampling)
                for stage in stages
            ]
            x = group.first.adaptation_episodes
            means, marker = [p.value for p in points], LINES[style["linestyle"]]
            axis.plot(x, means, marker=marker, label=_legend_of(group), **style)
            ends = [(p.low, p.high) for p in points if p.low is not None and p.high is not None]
            if len(ends) == 1:  # a band needs a width
                axis.vlines(x, *ends[0], colors=style["color"], alpha=0.5, linewidth=3)
            elif ends:
                axis.fill_between(x, *zip(*ends, strict=True), alpha=0.2, color=style["color"])
        axis.set_xlabel(stages_of(groups))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        reached = [x for group in groups for x in group.first.adaptation_episodes]
        if min(reached) == max(reached):
            axis.set_xlim(reached[0] - 0.5, reached[0] + 0.5)
        _label_values(axis, quantity)
    _finish(figure, axes, groups, resampling)
    return figure


def stages_of(groups: Sequence[Group]) -> str:
    """Return what the stages of groups are told apart by."""
    found = dict.fromkeys(group.first.stages_are for group in groups)
    return " or ".join(LABELS.get(name, name) for name in found)


COUNTERS = {
    "env_steps": (1e6, "environment steps in millions"),
    "wall_time_s": (60, "wall time in minutes, each run on its own machine"),
}
"""What training is measured in, the unit to draw it in, and what the axis says."""


def sample_efficiency(
    groups: Sequence[Group], metrics: Sequence[str], counters: Sequence[str] = tuple(COUNTERS)
) -> Figure:
    """Draw metrics of training against environment steps and against wall time.

    A line is the mean over a group's seeds, where all of them have got; its band is the 95 %
    bootstrap interval over seeds, and there is none around one seed. If one seed ended before
    another began to log, each has a thin line of its own. Seeds that never logged the metric are
    left out, and the legend counts them.

    Args:
        metrics: Names in metrics.jsonl, such as `success/after` or `evaluation/success/stage_1`;
            a row of panels each.
        counters: Names of `COUNTERS`, a column of panels each.
    """
    figure, axes = _panels(len(metrics), len(counters))
    for metric, row in zip(metrics, axes, strict=True):
        for axis, counter in zip(row, counters, strict=True):
            unit, title = COUNTERS[counter]
            for style, group in _styled(groups):
                curves = [logged(run.metrics, counter, metric) for run in group.runs]
                curves = [(x, y) for x, y in curves if len(x)]
                if not curves:
                    continue
                x, values = _on_one_grid(curves)
                label = _legend_of(group, len(curves))
                if not len(x):
                    for of_seed, y in curves:
                        axis.plot(of_seed / unit, y, label=label, linewidth=0.7, **style)
                    continue
                # What was logged once, such as the final evaluation, is a point: no line shows it.
                marker = LINES[style["linestyle"]] if x[0] == x[-1] else None
                axis.plot(x / unit, values.mean(0), marker=marker, label=label, **style)
                if len(values) > 1:
                    low, high = _interval_over_seeds(values)
                    axis.fill_between(x / unit, low, high, alpha=0.2, color=style["color"])
            axis.set_xlabel(title)
            axis.xaxis.set_major_locator(MaxNLocator(5))  # short runs have long numbers
            shown, font = as_it_stands(LOGGED.get(metric, metric))
            axis.set_ylabel(shown, **font)
            axis.grid(alpha=0.3)
    several = any(len(group.runs) > 1 for group in groups)
    intervals = "95 % intervals over seeds" if several else "no intervals"
    figure.suptitle(f"training, {intervals}", fontsize="medium")
    _legend(figure, axes)
    return figure


def performance_profiles(
    groups: Sequence[Group],
    quantity: Quantity,
    stage: int | None = None,
    resampling: Resampling = "whole-runs",
) -> Figure:
    """Draw the share of (seed, task) scores above each threshold (Agarwal et al. 2021)."""
    figure, axes = _panels(1, 1, width=6.4)
    axis = axes[0][0]
    scores = [group.scores(quantity, stage) for group in groups]
    thresholds = thresholds_for(quantity, scores, 201)

    def profile(drawn: Float[np.ndarray, "B R M"]) -> Float[np.ndarray, "B K"]:
        return performance_profile(drawn, thresholds)

    for (style, group), array in zip(_styled(groups), scores, strict=True):
        shares = profile(array[None])[0]
        axis.plot(thresholds, shares, drawstyle="steps-post", label=_legend_of(group), **style)
        ends = bootstrap_interval(profile, [array], group.strata, resampling)
        if ends is not None:
            axis.fill_between(thresholds, *ends, step="post", alpha=0.2, color=style["color"])
    axis.set_xlabel(f"threshold of the {label_of(quantity)}")
    axis.set_ylabel("share of seeds and tasks above it")
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    _finish(figure, axes, groups, resampling)
    return figure


def thresholds_for(
    quantity: Quantity, scores: Sequence[NDArray[np.float64]], count: int
) -> NDArray[np.float64]:
    """Return thresholds from the least score to the largest; of success, from 0 to 1."""
    everything = np.concatenate([array.ravel() for array in scores])
    low, high = everything.min(), everything.max()
    if quantity == "success":
        low, high = 0.0, 1.0
    elif low == high:
        around = max(0.5, 1e-6 * abs(low))
        low, high = low - around, high + around
    return np.linspace(low, high, count)


def heat_map(groups: Sequence[Group], quantity: Quantity = "success", stage: int = -1) -> Figure:
    """Draw each group's mean on each task name, or on each goal where there is one name."""
    rows = task_rows(groups)
    cells = np.full((len(groups), len(rows)), np.nan)
    for y, group in enumerate(groups):
        scores = group.scores(quantity, stage).mean(0)
        for x, row in enumerate(rows):
            if columns := group.columns(row):
                cells[y, x] = scores[columns].mean()
    readable = len(rows) <= 50
    labels = [_legend_of(group) for group in groups]
    beside = 2 + LETTER_INCHES * max(map(len, labels))  # labels and the colors' scale
    width = beside + (max(0.4 * len(rows), 3) if readable else 12)
    figure = Figure(figsize=(width, 2.2 + 0.4 * len(groups)), layout="constrained")
    axis = figure.subplots()
    low, high = (0.0, 1.0) if quantity == "success" else (np.nanmin(cells), np.nanmax(cells))
    image = axis.imshow(cells, aspect="auto", vmin=low, vmax=high)
    figure.colorbar(image, ax=axis)
    label_ticks(axis.yaxis, labels)
    if readable:
        label_ticks(axis.xaxis, rows, rotation=90)
        for y, x in np.argwhere(np.isfinite(cells)):
            value = cells[y, x]
            color = "black" if value > (low + high) / 2 else "white"
            text = f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
            axis.text(x, y, text, ha="center", va="center", fontsize=6, color=color)
    else:
        axis.set_xlabel("task")
    episodes = " or ".join(
        str(x) for x in dict.fromkeys(group.first.adaptation_episodes[stage] for group in groups)
    )
    when = stages_of(groups).replace("episodes of the task learned from", "episodes")
    when = when.removesuffix("s") if episodes == "1" else when
    figure.suptitle(f"{label_of(quantity)}, after {episodes} {when}", fontsize="medium")
    return figure


def stream_map(record: StreamRecord) -> Figure:
    """Draw each task's score over a stream of names; a frame shows when its turn was."""
    rows, edges = len(record.names), np.concatenate([[0], record.iterations])
    figure = Figure(figsize=(7.2, 1.6 + 0.32 * rows), layout="constrained")
    axis = figure.subplots()
    low, high = (0.0, 1.0) if record.score.name == "success" else (None, None)
    lines = np.arange(rows + 1) - 0.5  # a task's row is about a whole number, where its name is
    image = axis.pcolormesh(edges, lines, record.values.T, vmin=low, vmax=high)
    figure.colorbar(image, ax=axis, label=label_of(record.score.name))
    for place in range(rows):
        frame = Rectangle(
            (place * record.turn, lines[place]), record.turn, 1, fill=False, color="red"
        )
        axis.add_patch(frame)
    label_ticks(axis.yaxis, list(record.names))
    axis.invert_yaxis()
    axis.set_xlabel("meta-iterations")
    return figure


def logged(
    rows: Sequence[Mapping[str, Any]], counter: str, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a counter and a metric where the metric was logged; what is not finite is left out."""
    points = [
        (row[counter], value)
        for row in rows
        if (value := row.get(metric)) is not None and counter in row
    ]
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return x, y


def _on_one_grid(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "R K"]]:
    """Interpolate linearly where every curve has values; nothing is extrapolated.

    Curves of one point each, such as final evaluations, are one point at their mean place.
    """
    if all(len(x) == 1 for x, _ in curves):
        return np.mean([x for x, _ in curves], 0), np.stack([y for _, y in curves])
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(start, end, 200) if start <= end else np.empty(0)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _interval_over_seeds(
    values: Float[np.ndarray, "R K"],
) -> Float[np.ndarray, "2 K"]:
    """Return the interval at each point of a curve: a curve is drawn whole, as a run is."""
    points = [f"{column}" for column in range(values.shape[1])]
    ends = bootstrap_interval(lambda drawn: drawn.mean(1), [values], points)
    assert ends is not None
    return ends


def _panels(rows: int, columns: int, width: float = 4.8) -> tuple[Figure, NDArray[np.object_]]:
    figure = Figure(figsize=(width * columns, 3.6 * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _styled(groups: Sequence[Group]) -> list[tuple[dict[str, str], Group]]:
    """Give each group a color and a line of its own, the same in every picture."""
    lines = list(LINES)
    return [
        ({"color": f"C{number % 10}", "linestyle": lines[number // 10 % len(lines)]}, group)
        for number, group in enumerate(groups)
    ]


def _label_values(axis: Axes, quantity: Quantity) -> None:
    axis.set_ylabel(label_of(quantity))
    axis.grid(alpha=0.3)
    if quantity == "success":
        axis.set_ylim(-0.02, 1.02)


def _legend_of(group: Group, shown: int | None = None) -> str:
    """Return a group's label with its seeds, and how many of them are shown if not all."""
    seeds = len(group.runs)
    part = "" if shown in (None, seeds) else f"{shown} of "
    return f"{group.label}, {part}{seeds} seed{'s' if seeds > 1 else ''}"


def _legend(figure: Figure, axes: NDArray[np.object_]) -> None:
    """Name the groups under the panels, whatever characters their names have."""
    lines: dict[str, Line2D] = {}
    for axis in axes.ravel().tolist():
        for line in axis.lines:
            lines.setdefault(str(line.get_label()), line)
    if not lines:
        return
    # A line and its gaps take about 0.55 inches; what is too wide would be cut off.
    width = LETTER_INCHES * max(map(len, lines)) + 0.55
    columns = max(1, int(figure.get_figwidth() // width))
    figure.set_figwidth(max(figure.get_figwidth(), width))
    # Two rows have their place; further ones would take it from the axes, 14 points each.
    beyond = max(0, ceil(len(lines) / columns) - 2)
    figure.set_figheight(figure.get_figheight() + 14 / 72 * beyond)
    # matplotlib leaves out labels that begin with an underscore, but not texts that come later.
    legend = figure.legend(
        list(lines.values()),
        ["group"] * len(lines),
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
    )
    for text, label in zip(legend.get_texts(), lines, strict=True):
        shown, font = as_it_stands(label)
        text.set(text=shown, **font)


def _finish(
    figure: Figure, axes: NDArray[np.object_], groups: Sequence[Group], resampling: Resampling
) -> None:
    tasks = dict.fromkeys(_tasks_of(group) for group in groups)
    over = resampled_in(groups, resampling)
    intervals = f"95 % intervals over {over}" if over else "no intervals"
    shown, font = as_it_stands(f"{' / '.join(tasks)}, {intervals}")
    figure.suptitle(shown, fontsize="medium", wrap=True, **font)
    _legend(figure, axes)


def _tasks_of(group: Group) -> str:
    protocol = group.first.protocol
    return f"{benchmark_of(protocol)}, {counted(protocol['tasks'], protocol['split'] + ' task')}"
