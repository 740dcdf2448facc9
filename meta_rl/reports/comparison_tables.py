"""The tables of a comparison of groups, and what readers must know of them."""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from meta_rl.core.errors import UserError, what_there_is
from meta_rl.evaluation.comparison import (
    Group,
    Quantity,
    Row,
    Run,
    aggregate,
    all_quantities,
    differing_fields,
    improvement,
    shared_quantities,
    task_rows,
    title_of,
    told_differences,
)
from meta_rl.evaluation.life_plan import SINCE_CHANGE
from meta_rl.evaluation.protocol import chosen_on_measured, decisive
from meta_rl.evaluation.statistics import AGGREGATES, Estimate, Resampling, too_few_tasks
from meta_rl.reports.tables import TextTable

CSV_COLUMNS = (
    *("group", "other", "seeds", "env_steps", "wall_time_s", "stage", "adaptation_episodes"),
    *("task", "quantity", "statistic", "value", "low", "high", "over"),
)


FEW_TASKS = "fewer than five tasks of a name: a bootstrap of so few is too narrow"


@dataclass(frozen=True)
class Options:
    """Which aggregates are shown."""

    stage: int | None = None
    """Stage of adaptation; none shows several, and compares the last."""
    by_task: bool = False
    """Also the mean on each task name, or on each goal where there is one name."""
    resampling: Resampling = "whole-runs"
    """What intervals draw anew."""
    every_stage: bool = False
    """Without a stage, show all of them. Otherwise the first and the last, if there are more than
    four."""


def check_protocols(groups: Sequence[Group], allow: bool) -> list[str]:
    """Refuse different protocols, or return a warning where they are allowed.

    Groups without a score in common are refused in any case.
    """
    if not shared_quantities(groups):
        scores = "; ".join(f"{group.label}: {', '.join(group.quantities)}" for group in groups)
        raise UserError(f"the runs have no score in common ({scores}); compare fewer of them")
    differing = differing_fields([decisive(group.first.protocol) for group in groups])
    if not differing:
        return []
    told = told_differences(differing)
    if not allow:
        raise UserError(
            f"the runs were measured under different protocols ({told}); evaluate them alike, or "
            f"pass --allow-different-protocols to see them all the same"
        )
    return [f"warning: different protocols, not comparable: {told}"]


def aggregate_rows(groups: Sequence[Group], options: Options) -> list[Row]:
    """Aggregate what the tables show: all tasks, and then each if asked for."""
    rows = []
    for group in groups:
        several = range(len(group.first.adaptation_episodes))
        shown = several if options.every_stage or len(several) <= 4 else (0, several[-1])
        stages = shown if options.stage is None else (several[options.stage],)
        rows += [
            aggregate(group, quantity, stage, resampling=options.resampling)
            for quantity in group.quantities
            for stage in stages
        ]
        if options.by_task:
            rows += [
                aggregate(group, quantity, stages[-1], task, options.resampling)
                for quantity in group.quantities
                for task in task_rows(groups)
                if group.columns(task)
            ]
    return rows


def remarks_on(groups: Sequence[Group], rows: Sequence[Row], options: Options) -> list[str]:
    """Return what readers must know of the intervals and the results."""
    fingerprints = dict.fromkeys(group.first.fingerprint for group in groups)
    runs = "runs for each task apart" if options.resampling == "rliable" else "whole runs"
    tasks = ", and of tasks within each name" if any("tasks" in row.over for row in rows) else ""
    intervals = f"95 % intervals by a percentile bootstrap of {runs}{tasks}"
    if not any(row.over for row in rows):
        intervals = "no intervals, as there is nothing to resample"
    remarks = [f"protocol {', '.join(fingerprints)}; {intervals}"]
    counts = [len(group.runs) for group in groups]
    if any(row.over == ("tasks",) for row in rows):
        remarks.append("one seed: its interval is over tasks only and says nothing of other seeds")
    if any(1 < count < 10 for count in counts):
        remarks.append("two to nine seeds: a bootstrap of so few is too narrow")
    if any("tasks" in row.over and too_few_tasks(row.group.strata) for row in rows):
        remarks.append(FEW_TASKS)
    if options.stage is not None:
        remarks += _unlike_stages(groups, options.stage)
    remarks += _unlike_checkpoints(groups)
    for group in groups:
        trained = sorted({run.result.meta_iterations for run in group.runs})
        if len(trained) > 1 and {run.result.checkpoint for run in group.runs} == {"latest"}:
            remarks.append(
                f"warning: seeds of {group.label} were trained for {trained[0]} to {trained[-1]} "
                f"meta-iterations"
            )
        for run in group.runs:
            remarks += run.remarks
            if run.damaged_lines:
                remarks.append(
                    f"warning: {run.name}: {run.damaged_lines} damaged lines of metrics.jsonl are "
                    f"left out"
                )
    return remarks


def _unlike_checkpoints(groups: Sequence[Group]) -> list[str]:
    """Warn of checkpoints that are not all the latest or all the best, or that flatter."""
    remarks = []
    chosen = {
        group.label: sorted({run.result.checkpoint for run in group.runs}) for group in groups
    }
    for label, checkpoints in chosen.items():
        if len(checkpoints) > 1:
            remarks.append(f"warning: {label} mixes {' and '.join(checkpoints)} checkpoints")
    if len(set(map(tuple, chosen.values()))) > 1:
        each = "; ".join(f"{label}: {' and '.join(which)}" for label, which in chosen.items())
        remarks.append(f"warning: not the same checkpoint of all: {each}")
    return remarks + [
        f"warning: the best checkpoint of {group.label} was chosen on the same tasks that it is "
        f"measured on, so its result is too good"
        for group in groups
        if any(_is_too_good(run) for run in group.runs)
    ]


def _is_too_good(run: Run) -> bool:
    """Return whether a run's checkpoint was chosen on the tasks that it is measured on."""
    config = run.experiment.get("evaluation")  # runs of other programs may have none
    return (
        run.result.checkpoint == "best"
        and config is not None
        and chosen_on_measured(run.result.protocol, config["every"], config["choose_on"])
    )


def _unlike_stages(groups: Sequence[Group], stage: int) -> list[str]:
    """Warn of a stage that groups reach by different amounts of experience.

    One protocol has the same last stage for all of them; stages between are each agent's own.
    """
    reached = {group.label: group.first.adaptation_episodes[stage] for group in groups}
    if len(set(reached.values())) == 1:
        return []
    each = "; ".join(f"{label}: {episodes}" for label, episodes in reached.items())
    return [f"warning: stage {stage} is not the same for all, in {_stages_are(groups)}: {each}"]


def _stages_are(groups: Sequence[Group]) -> str:
    """Return what tells the stages of groups apart, as tables name it."""
    return " or ".join(dict.fromkeys(group.first.stages_are for group in groups))


def tables_of(groups: Sequence[Group], rows: Sequence[Row], options: Options) -> list[TextTable]:
    """Return all tables of a comparison."""
    measured = {row.quantity for row in rows}
    quantities = [quantity for quantity in all_quantities(groups) if quantity in measured]
    tables = [aggregates_table(quantity, rows) for quantity in quantities]
    if options.by_task:
        tables += [_by_task(quantity, groups, rows) for quantity in quantities]
    if len(groups) > 1:
        tables.append(improvements_table(groups, options))
    return tables


def aggregates_table(quantity: Quantity, rows: Sequence[Row]) -> TextTable:
    """Return a row for each group and stage."""
    lines = [
        (
            row.group.label,
            str(len(row.group.runs)),
            _env_steps(row.group),
            _wall_time(row.group),
            str(row.group.first.adaptation_episodes[row.stage]),
            *(told(found) for found in row.aggregates.values()),
            _over(row.over),
        )
        for row in rows
        if row.quantity == quantity and row.task is None
    ]
    columns = (
        *("group", "seeds", "env steps", "wall time"),
        _stages_are([row.group for row in rows]),
        *(*AGGREGATES, "interval over"),
    )
    return TextTable(title_of(quantity), columns, lines)


def _by_task(quantity: Quantity, groups: Sequence[Group], rows: Sequence[Row]) -> TextTable:
    cells = {
        (row.task, row.group.label): told(row.aggregates["mean"])
        for row in rows
        if row.quantity == quantity and row.task is not None
    }
    shown = {row.group.label: row for row in rows if row.task is not None}.values()
    times = dict.fromkeys(str(row.group.first.adaptation_episodes[row.stage]) for row in shown)
    title = f"{title_of(quantity)} by task, mean after {' or '.join(times)} {_stages_are(groups)}"
    labels = [group.label for group in groups]
    lines = [
        (task, *(cells.get((task, label), "-") for label in labels)) for task in task_rows(groups)
    ]
    return TextTable(title, ("task", *labels), lines)


def improvements_table(groups: Sequence[Group], options: Options) -> TextTable:
    """Return a row for each pair of groups."""
    lines = []
    for one, other in itertools.combinations(groups, 2):
        found = {q: _improvement(one, other, q, options) for q in all_quantities(groups)}
        over = next((over for _, over in filter(None, found.values())), ())
        shown = [told(pair[0]) if pair else "-" for pair in found.values()]
        lines.append((one.label, other.label, *shown, _over(over)))
    columns = ("group", "is better than", *map(title_of, all_quantities(groups)), "interval over")
    title = "probability of improvement"
    if options.stage is None and any(SINCE_CHANGE in each.first.protocol for each in groups):
        title += " over all times since a change"
    return TextTable(title, columns, lines, left=2)


def _improvement(
    one: Group, other: Group, quantity: Quantity, options: Options
) -> tuple[Estimate, tuple[str, ...]] | None:
    if quantity not in shared_quantities([one, other]):
        return None
    return improvement(one, other, quantity, options.stage, options.resampling)


def _env_steps(group: Group) -> str:
    steps = sorted(run.result.env_steps for run in group.runs)
    return _from_to(f"{steps[0]:,}", f"{steps[-1]:,}")


def _wall_time(group: Group) -> str:
    times = sorted(run.wall_time_s for run in group.runs if run.wall_time_s is not None)
    return _from_to(told_time(times[0]), told_time(times[-1])) if times else "-"


def _from_to(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def told_time(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def told(found: Estimate) -> str:
    """Return an estimate and its interval as text."""
    digits = 2 if abs(found.value) < 100 else 0
    if found.low is None or found.high is None:
        return f"{found.value:,.{digits}f} [-]"
    return f"{found.value:,.{digits}f} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]"


def _over(over: tuple[str, ...]) -> str:
    return f"{over[0]} only" if len(over) == 1 else " and ".join(over) or "-"


def csv_text(groups: Sequence[Group], rows: Sequence[Row], options: Options) -> str:
    """Return one line for each number, so that a table of any shape can be made of it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for statistic, found in row.aggregates.items():
            writer.writerow(
                {
                    "group": row.group.label,
                    "seeds": " ".join(str(run.seed) for run in row.group.runs),
                    "env_steps": " ".join(str(run.result.env_steps) for run in row.group.runs),
                    "wall_time_s": " ".join(str(run.wall_time_s or "-") for run in row.group.runs),
                    "stage": row.stage,
                    "adaptation_episodes": row.group.first.adaptation_episodes[row.stage],
                    "task": row.task or "",
                    "quantity": row.quantity,
                    "statistic": statistic,
                    **_numbers(found, row.over),
                }
            )
    for one, other in itertools.combinations(groups, 2):
        # Without a stage, agents in tasks that change are compared over all times since a change.
        last = "" if SINCE_CHANGE in one.first.protocol else -1
        places = range(len(one.first.adaptation_episodes))
        for quantity in all_quantities(groups):
            if pair := _improvement(one, other, quantity, options):
                writer.writerow(
                    {
                        "group": one.label,
                        "other": other.label,
                        "stage": last if options.stage is None else places[options.stage],
                        "quantity": quantity,
                        "statistic": "probability_of_improvement",
                        **_numbers(*pair),
                    }
                )
    return text.getvalue()


def _numbers(found: Estimate, over: tuple[str, ...]) -> dict[str, object]:
    return {"value": found.value, "low": found.low, "high": found.high, "over": " ".join(over)}


def training_metrics(groups: Sequence[Group], chosen: tuple[str, ...]) -> list[str]:
    """Return the metrics of training to draw: the chosen ones, or the usual ones that are there."""
    known = dict.fromkeys(
        name for group in groups for run in group.runs for row in run.metrics for name in row
    )
    for name in chosen:
        if name not in known:
            raise UserError(f"no metric {name!r} in metrics.jsonl; {what_there_is(name, known)}")
    return list(chosen) or [name for name in ("success/after", "return/after") if name in known]
