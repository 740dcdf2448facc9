"""What a report says of groups of runs: results, curves, settings, and how they were made."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, log10

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure as Drawing

from meta_rl import __version__
from meta_rl.core.protocols import ALL_TASKS
from meta_rl.evaluation.comparison import (
    Group,
    Quantity,
    Row,
    Run,
    differing_fields,
    resampled_in,
    shared_quantities,
    task_rows,
    title_of,
)
from meta_rl.evaluation.continual import mean_stream, read_stream
from meta_rl.evaluation.life_plan import SINCE_CHANGE
from meta_rl.evaluation.protocol import benchmark_of
from meta_rl.evaluation.statistics import performance_profile
from meta_rl.experiment import strict_yaml
from meta_rl.reports import comparison_tables, figures
from meta_rl.reports.beliefs import Beliefs, beliefs_section
from meta_rl.reports.comparison_tables import Options, told, told_time, training_metrics
from meta_rl.reports.figures import stages_of
from meta_rl.reports.names import LOGGED
from meta_rl.reports.page import STYLE, Figure, Folded, Page, Section, Video
from meta_rl.reports.tables import TextTable
from meta_rl.runs.folder import RunFolder

MAIN_PACKAGES = ("torch", "numpy", "gymnasium", "numba", "scipy")
"""Packages that all results depend on, shown before all others; protocols name further ones."""


def make_page(
    groups: Sequence[Group],
    options: Options,
    warnings: Sequence[str] = (),
    videos: Sequence[Video] = (),
    beliefs: Sequence[Beliefs] = (),
) -> Page:
    """Return the report of groups of runs.

    Args:
        options: Which aggregates are shown.
        warnings: What readers must know before they compare the groups.
        beliefs: What agents that tell it believed of tasks.
    """
    protocols = [group.first.protocol for group in groups]
    split = protocols[0]["split"]  # the one that was asked for
    tasks = {"train": "training", "test": "held-out"}.get(split, split)
    if any(ALL_TASKS in protocol for protocol in protocols):
        tasks = "all"
    runs = [run for group in groups for run in group.runs]
    with rc_context(STYLE):
        sections = [
            _results(groups, options, warnings),
            _adaptation(groups),
            _learning(groups),
            *_streams(groups),
            _tasks(groups),
            _profile(groups),
            *([beliefs_section(beliefs)] if beliefs else []),
            *([_videos(videos)] if videos else []),
            _settings(groups),
            _protocol(groups),
            _provenance(runs),
        ]
    return Page(
        title=f"{_each_once(map(benchmark_of, protocols))}: adaptation to {tasks} tasks",
        summary=f"{', '.join(group.label for group in groups)}: "
        f"{len(runs)} run{'s' if len(runs) > 1 else ''}, measured on "
        f"{_each_once(str(each['tasks']) for each in protocols)} {tasks} tasks.",
        sections=sections,
        made_by=f"Made by meta-rl {__version__}.",
    )


def _each_once(words: Iterable[str]) -> str:
    """Return words that groups may share as text."""
    return " / ".join(dict.fromkeys(words))


def _results(groups: Sequence[Group], options: Options, warnings: Sequence[str]) -> Section:
    rows = comparison_tables.aggregate_rows(groups, options)
    tables = [
        comparison_tables.aggregates_table(quantity, rows) for quantity in shared_quantities(groups)
    ]
    if len(groups) > 1:
        tables.append(comparison_tables.improvements_table(groups, options))
    return Section(
        "Results",
        text=f"{_what_stages_are(groups)} Brackets hold 95 % intervals.",
        remarks=[*warnings, *comparison_tables.remarks_on(groups, rows, options)],
        tables=[_stages(groups, rows)],
        folded=[
            Folded("Interquartile mean, median and probability of improvement", tables=tables),
            Folded("Each run", tables=[_each_run(groups)]),
        ],
    )


def _what_stages_are(groups: Sequence[Group]) -> str:
    if _tasks_change(groups):
        return "Tasks change while agents learn them; a row for each time since the last change."
    return (
        "A group's first row is its policy before adaptation, the others after learning from so "
        "many episodes of the task."
    )


def _tasks_change(groups: Sequence[Group]) -> bool:
    """Return whether stages are times since a task has changed."""
    return any(SINCE_CHANGE in group.first.protocol for group in groups)


def _stages(groups: Sequence[Group], rows: Sequence[Row]) -> TextTable:
    """Return the means at each stage, all quantities in one line."""
    quantities = shared_quantities(groups)
    lines: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        if row.quantity in quantities:
            lines.setdefault((row.group.label, row.stage), []).append(told(row.aggregates["mean"]))
    return TextTable(
        "Mean over seeds and tasks",
        [
            "group",
            stages_of(groups),
            *(title_of(quantity) for quantity in quantities),
            "seeds",
        ],
        [
            [
                group.label,
                str(group.first.adaptation_episodes[stage]),
                *lines[group.label, stage],
                str(len(group.runs)),
            ]
            for group in groups
            for label, stage in lines
            if label == group.label
        ],
    )


def _each_run(groups: Sequence[Group]) -> TextTable:
    quantities = shared_quantities(groups)
    return TextTable(
        "Mean over tasks",
        ["run", "seed", stages_of(groups), *(title_of(quantity) for quantity in quantities)],
        [
            [run.name, str(run.seed), str(episodes)]
            + [_number(run.result.scores[quantity][:, stage].mean()) for quantity in quantities]
            for group in groups
            for run in group.runs
            for stage, episodes in enumerate(run.result.adaptation_episodes)
        ],
    )


def _adaptation(groups: Sequence[Group]) -> Section:
    return Section(
        "Adaptation",
        text="Means at each stage; the first table above has the numbers.",
        figures=[
            Figure(
                f"adaptation-{quantity}",
                f"{title_of(quantity).capitalize()} against {stages_of(groups)}{_bands(groups)}.",
                f"Line chart of {title_of(quantity)} against {stages_of(groups)}: "
                + "; ".join(_from_to(group, quantity) for group in groups),
                _untitled(figures.adaptation_curves(groups, [quantity])),
            )
            for quantity in shared_quantities(groups)
        ],
    )


def _learning(groups: Sequence[Group]) -> Section:
    metrics = training_metrics(groups, ())
    several = any(len(group.runs) > 1 for group in groups)
    bands = "; bands: 95 % intervals over seeds" if several else ""
    return Section(
        "Learning",
        text="Training tasks, after adaptation, as logged at each meta-iteration.",
        figures=[
            Figure(
                f"learning-{metric}-{counter}".replace("/", "-"),
                f"{shown} while training, against {against}{bands}.",
                f"Line chart of {shown} while training, against {against}, one line a group",
                _untitled(figures.sample_efficiency(groups, [metric], [counter])),
            )
            for metric in metrics
            for shown in (LOGGED.get(metric, metric),)
            for counter, (_, against) in figures.COUNTERS.items()
        ],
        folded=[Folded("Where training ended", tables=[_trained(groups, metrics)])],
    )


def _streams(groups: Sequence[Group]) -> list[Section]:
    """Return what was learned and forgotten by groups that went through task names in turn."""
    drawings, tables = [], []
    for group in groups:
        records = [read_stream(run.path, run.experiment) for run in group.runs]
        found = [record for record in records if record is not None]
        if not found:
            continue
        record = mean_stream(found)
        title = title_of(record.score.name)
        drawings.append(
            Figure(
                f"stream-{group.label}",
                f"{title.capitalize()} of each task while {group.label} went through the names, "
                f"after adaptation; red: the task's turn.",
                f"Map of {title} by task and meta-iteration",
                figures.stream_map(record),
            )
        )
        columns = record.after_its_turn, record.at_the_end, record.forgetting
        tables.append(
            TextTable(
                f"{group.label}: {title}",
                ["task", "after its turn", "at the end", "forgotten"],
                [
                    [name, *(_number(column[place]) for column in columns)]
                    for place, name in enumerate(record.names)
                ]
                + [["mean", *(_number(_mean_of_known(column)) for column in columns)]],
            )
        )
    if not drawings:
        return []
    return [
        Section(
            "Stream",
            text="Training went through the task names in turn; all were measured on the way.",
            figures=drawings,
            tables=tables,
        )
    ]


def _mean_of_known(values: Float[np.ndarray, "K"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def _trained(groups: Sequence[Group], metrics: Sequence[str]) -> TextTable:
    rows = []
    for run in (run for group in groups for run in group.runs):
        ends = [figures.logged(run.metrics, "env_steps", metric)[1][-1:] for metric in metrics]
        rows.append([run.name, *(_number(end[0]) if len(end) else "–" for end in ends)])
    return TextTable("The last meta-iteration", ["run", *metrics], rows)


def _tasks(groups: Sequence[Group]) -> Section:
    """Return the breakdown by task, before adaptation and after all of it, if there was any."""
    quantities = shared_quantities(groups)
    rows = task_rows(groups)
    stages = {"before adaptation": 0, "after adaptation": -1}
    if _tasks_change(groups):
        stages = {"just after a change": 0, "right before the next": -1}
    elif all(len(group.first.adaptation_episodes) == 1 for group in groups):
        stages = {"over all its episodes": 0}
    return Section(
        "Tasks",
        figures=[
            Figure(
                f"tasks-{when.partition(' ')[0]}",
                f"{title_of(quantities[0]).capitalize()} on each task {when}, mean over seeds.",
                f"Heat map of {title_of(quantities[0])} {when}, one row a group, one column a task",
                figures.heat_map(groups, quantities[0], stage),
            )
            for when, stage in stages.items()
        ],
        folded=[
            Folded(
                "Numbers",
                tables=[
                    TextTable(
                        f"{title_of(quantity).capitalize()}, mean over seeds",
                        ["task", *(f"{group.label} {when}" for group in groups for when in stages)],
                        [[row, *_on_task(groups, quantity, stages.values(), row)] for row in rows],
                    )
                    for quantity in quantities
                ],
            )
        ],
    )


def _on_task(
    groups: Sequence[Group], quantity: Quantity, stages: Iterable[int], row: str
) -> Iterator[str]:
    for group in groups:
        columns = group.columns(row)
        for stage in stages:
            scores = group.scores(quantity, stage)[:, columns]
            yield _number(scores.mean()) if columns else "–"


def _profile(groups: Sequence[Group]) -> Section:
    """Return the performance profiles, in numbers at five thresholds."""
    quantities = shared_quantities(groups)
    when = "over all times since a change" if _tasks_change(groups) else "after adaptation"
    tables = []
    for quantity in quantities:
        scores = [group.scores(quantity) for group in groups]
        thresholds = figures.thresholds_for(quantity, scores, 5)
        digits = max(2, ceil(1 - log10(thresholds[1] - thresholds[0])))
        shares = [performance_profile(array[None], thresholds)[0] for array in scores]
        tables.append(
            TextTable(
                f"Share of runs and tasks with more {title_of(quantity)} than",
                ["group", *(f"{threshold:,.{digits}f}" for threshold in thresholds)],
                [
                    [group.label, *map(_number, share)]
                    for group, share in zip(groups, shares, strict=True)
                ],
            )
        )
    return Section(
        "Performance profiles",
        text=f"How much of all runs and tasks lies above a threshold, {when}. The higher "
        "curve is the better group, or the lower one where low scores are good; curves that cross "
        "say that neither is (Agarwal et al. 2021).",
        figures=[
            Figure(
                f"profile-{quantity}",
                f"Share of runs and tasks above each threshold of {title_of(quantity)}, {when}; "
                f"one curve a group{_bands(groups)}.",
                f"Performance profiles of {title_of(quantity)} {when}, one curve a group",
                _untitled(figures.performance_profiles(groups, quantity)),
            )
            for quantity in quantities
        ],
        folded=[Folded("Numbers", tables=tables)],
    )


def _videos(videos: Sequence[Video]) -> Section:
    return Section(
        "Videos",
        text="One task; if it is adapted to, before and after, side by side.",
        videos=videos,
    )


def _settings(groups: Sequence[Group]) -> Section:
    described = [group.runs[0].description for group in groups]
    rows = [
        [field, *(str(fields.get(field, "–")) for fields in described)]
        for field in differing_fields(described)
    ]
    labels = [group.label for group in groups]
    differing = TextTable("Where groups differ", ["setting", *labels], rows, left=1 + len(labels))
    return Section(
        "Settings",
        text="Runs of a group differ by their seed alone.",
        tables=[differing] if rows else [],
        folded=[
            Folded(
                f"All settings of {group.label}",
                text=strict_yaml.write(dict(group.runs[0].experiment)),
            )
            for group in groups
        ],
    )


def _protocol(groups: Sequence[Group]) -> Section:
    protocols = {group.first.fingerprint: group.first.protocol for group in groups}
    fields = dict.fromkeys(field for protocol in protocols.values() for field in protocol)
    return Section(
        "Protocol",
        text="How adaptation was measured: all that a number depends on beside the agent, and its "
        "fingerprint. Only results of one protocol compare.",
        tables=[
            TextTable(
                "Protocol",
                ["fingerprint", *protocols],
                [
                    [field.replace("_", " ")]
                    + [str(protocol.get(field, "–")) for protocol in protocols.values()]
                    for field in fields
                ],
                left=1 + len(protocols),
            )
        ],
    )


def _provenance(runs: Sequence[Run]) -> Section:
    """Return how the runs were made."""
    made_with = [RunFolder(run.path).environment() for run in runs]

    def all_of(key: str) -> str:
        return _each_once(environment.get(key, "–") for environment in made_with)

    named = [key for run in runs for key in run.result.protocol if key in made_with[0]]
    main = dict.fromkeys((*MAIN_PACKAGES, *named))
    packages = sorted(
        set().union(*made_with)
        - {"command", "commit", "system", "machine", "python", "resumed", *main},
        key=str.lower,
    )
    return Section(
        "Runs",
        tables=[
            TextTable(
                "How the runs were made",
                ["run", "commit", "meta-iterations", "env steps", "wall time"],
                [
                    [
                        run.name,
                        environment.get("commit", "–"),
                        f"{run.result.meta_iterations:,}",
                        f"{run.result.env_steps:,}",
                        "–" if run.wall_time_s is None else told_time(run.wall_time_s),
                    ]
                    for run, environment in zip(runs, made_with, strict=True)
                ],
                left=2,
            ),
            TextTable(
                "Versions",
                ["what", "version"],
                [[name, all_of(name)] for name in ("system", "machine", "python", *main)],
                left=2,
            ),
        ],
        folded=[
            Folded(
                "Commands",
                text="\n".join(environment.get("command", "–") for environment in made_with),
                open=True,
            ),
            Folded(
                "All other packages",
                text="\n".join(f"{name}=={all_of(name)}" for name in packages),
            ),
        ],
    )


def _from_to(group: Group, quantity: Quantity) -> str:
    before, after = (_number(group.scores(quantity, stage).mean()) for stage in (0, -1))
    return f"{group.label} from {before} to {after}"


def _bands(groups: Sequence[Group]) -> str:
    over = resampled_in(groups, "whole-runs")
    return f"; bands: 95 % intervals over {over}" if over else ""


def _untitled(drawing: Drawing) -> Drawing:
    """Take away a title that says what the caption says."""
    drawing.suptitle("")
    return drawing


def _number(value: float) -> str:
    """Return a number with as many digits as intervals leave it: success in hundredths."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.1f}"
