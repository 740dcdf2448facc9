"""`meta-rl compare`."""

import csv
import io
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from meta_rl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from meta_rl.commands._table import TextTable
    from meta_rl.comparison import Group, Quantity, Row
    from meta_rl.statistics import Estimate

Format: TypeAlias = Literal["markdown", "csv", "latex"]
FORMATS: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
CSV_COLUMNS = (
    *("group", "other", "seeds", "env_steps", "wall_time_s", "stage", "adaptation_episodes"),
    *("task", "quantity", "statistic", "value", "low", "high", "over"),
)
TITLES: "dict[Quantity, str]" = {"success": "success", "episode_return": "return"}


@dataclass(frozen=True)
class Arguments:
    """Sets runs side by side, by the newest evaluation of each: tables and pictures.

    Runs that differ by their seed alone are one group, a row of the tables. Its interquartile mean
    (IQM), mean and median have 95 % bootstrap intervals; the probability of improvement tells how
    often one group's seed beats another's on a task (Agarwal et al. 2021). Results measured under
    different protocols are refused.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of the runs."""
    split: Literal["train", "test"] = "test"
    """Results on tasks trained on, or on held-out ones."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Results of actions drawn from the policy, or of its mode."""
    stage: int | None = None
    """Stage of adaptation: 0 is before any, -1 the last; none shows several, and compares and draws
    the last."""
    by_task: bool = False
    """Also show the mean of each task name, or of each goal where there is one name."""
    resampling: Literal["whole-runs", "rliable"] = "whole-runs"
    """What intervals draw anew: runs, each with all of its tasks, and tasks within each name; or,
    as the library rliable does, runs for each task apart, which is too sure of a meta-policy."""
    format: Format | None = None
    """Write the tables as text of this kind; none shows them on the terminal."""
    output: str | None = None
    """File of the tables; its ending, .md, .csv or .tex, tells the format where none is given."""
    figures: str | None = None
    """Folder for all pictures, as PNG; none writes the adaptation curves alone, as comparison.png
    in the folder that holds the first run."""
    metrics: tuple[str, ...] = ()
    """Metrics of training, as in metrics.jsonl, in the sample-efficiency curves of --figures;
    none means success and return after adaptation."""
    allow_different_protocols: bool = False
    """Compare all the same, with a warning that names what differs."""


def main(arguments: list[str]) -> int:
    """Compare runs."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl compare")
    if not given.runs:
        raise UserError("name at least one run folder: meta-rl compare RUN RUN ...")
    kind = given.format or _format_of(given.output)
    from meta_rl.comparison import group_runs, load_run

    paths = dict.fromkeys(Path(run) for run in given.runs)
    groups = group_runs([load_run(path, given.split, given.actions) for path in paths])
    remarks = check_protocols(groups, given.allow_different_protocols)
    _check_stage(groups, given.stage)
    rows = aggregate_rows(groups, given)
    remarks += remarks_on(groups, rows, given)
    tables = _tables(groups, rows, given)
    if kind is None:
        for table in tables:
            table.print()
    else:
        text = (
            _csv(groups, rows, given)
            if kind == "csv"
            else "\n".join(table.text(kind) for table in tables)
        )
        if given.output is None:
            print(text, end="")
        else:
            _write_text(text, Path(given.output))
            remarks.append(f"tables: {given.output}")
    for path, figure in _pictures(groups, given).items():
        _write_picture(figure, path)
        remarks.append(f"picture: {path}")
    # A table on stdout may go to a program: remarks stay out of its way.
    print(*remarks, sep="\n", file=sys.stderr if kind and not given.output else sys.stdout)
    return 0


def _format_of(output: str | None) -> Format | None:
    if output is None:
        return None
    suffix = Path(output).suffix
    if suffix not in FORMATS:
        raise UserError(
            f"--output is the file of the tables: {output!r} must end in {', '.join(FORMATS)}, or "
            f"--format must tell what it is; pictures go to --figures FOLDER"
        )
    return FORMATS[suffix]


def check_protocols(groups: "Sequence[Group]", allow: bool) -> list[str]:
    """Refuse different protocols, or return a warning where they are allowed."""
    from meta_rl.comparison import differing_fields

    differing = differing_fields([group.first.protocol for group in groups])
    if not differing:
        return []
    told = "; ".join(f"{name}: {' / '.join(values)}" for name, values in differing.items())
    if not allow:
        raise UserError(
            f"the runs were measured under different protocols ({told}); evaluate them alike, or "
            f"pass --allow-different-protocols to see them all the same"
        )
    return [f"warning: different protocols, not comparable: {told}"]


def _check_stage(groups: "Sequence[Group]", stage: int | None) -> None:
    for group in groups:
        stages = len(group.first.adaptation_episodes)
        if stage is not None and not -stages <= stage < stages:
            raise UserError(
                f"no stage {stage} of {group.label}: its evaluation has the stages 0 to "
                f"{stages - 1}; more are made by `meta-rl evaluate RUN --adaptation-steps N`"
            )


def aggregate_rows(groups: "Sequence[Group]", given: Arguments) -> "list[Row]":
    """Aggregate what the tables show: all tasks, and then each if asked for."""
    from meta_rl.comparison import aggregate, task_rows

    rows = []
    for group in groups:
        several = range(len(group.first.adaptation_episodes))
        shown = several if len(several) <= 4 else (0, several[-1])
        stages = shown if given.stage is None else (several[given.stage],)
        rows += [
            aggregate(group, quantity, stage, resampling=given.resampling)
            for quantity in group.quantities
            for stage in stages
        ]
        if given.by_task:
            rows += [
                aggregate(group, quantity, stages[-1], task, given.resampling)
                for quantity in group.quantities
                for task in task_rows(groups)
                if group.columns(task)
            ]
    return rows


def remarks_on(groups: "Sequence[Group]", rows: "Sequence[Row]", given: Arguments) -> list[str]:
    """Return what readers must know of the intervals and the results."""
    fingerprints = dict.fromkeys(group.first.fingerprint for group in groups)
    runs = "runs for each task apart" if given.resampling == "rliable" else "whole runs"
    tasks = ", and of tasks within each name" if any("tasks" in row.over for row in rows) else ""
    remarks = [
        f"protocol {', '.join(fingerprints)}; 95 % intervals by a percentile bootstrap of "
        f"{runs}{tasks}"
    ]
    counts = [len(group.runs) for group in groups]
    if 1 in counts:
        remarks.append("one seed: its interval is over tasks only and says nothing of other seeds")
    if any(1 < count < 5 for count in counts):
        remarks.append("two to four seeds: a bootstrap of so few is too narrow")
    for group in groups:
        checkpoints = sorted({run.result.checkpoint for run in group.runs})
        if len(checkpoints) > 1:
            remarks.append(f"warning: {group.label} mixes {' and '.join(checkpoints)} checkpoints")
    return remarks


def _tables(
    groups: "Sequence[Group]", rows: "Sequence[Row]", given: Arguments
) -> "list[TextTable]":
    quantities = [q for q in TITLES if any(row.quantity == q for row in rows)]
    tables = [aggregates_table(quantity, rows) for quantity in quantities]
    if given.by_task:
        tables += [_by_task(quantity, groups, rows) for quantity in quantities]
    if len(groups) > 1:
        tables.append(improvements_table(groups, given))
    return tables


def aggregates_table(quantity: "Quantity", rows: "Sequence[Row]") -> "TextTable":
    """Return a row for each group and stage."""
    from meta_rl.commands._table import TextTable
    from meta_rl.statistics import AGGREGATES

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
        *("group", "seeds", "env steps", "wall time", "adaptation episodes"),
        *(*AGGREGATES, "interval over"),
    )
    return TextTable(TITLES[quantity], columns, lines)


def _by_task(quantity: "Quantity", groups: "Sequence[Group]", rows: "Sequence[Row]") -> "TextTable":
    from meta_rl.commands._table import TextTable
    from meta_rl.comparison import task_rows

    cells = {
        (row.task, row.group.label): told(row.aggregates["mean"])
        for row in rows
        if row.quantity == quantity
    }
    labels = [group.label for group in groups]
    lines = [
        (task, *(cells.get((task, label), "-") for label in labels)) for task in task_rows(groups)
    ]
    return TextTable(f"{TITLES[quantity]} by task, mean", ("task", *labels), lines)


def improvements_table(groups: "Sequence[Group]", given: Arguments) -> "TextTable":
    """Return a row for each pair of groups."""
    from meta_rl.commands._table import TextTable

    lines = []
    for one, other in itertools.combinations(groups, 2):
        found = {q: _improvement(one, other, q, given) for q in TITLES}
        over = next((over for _, over in filter(None, found.values())), ())
        shown = [told(pair[0]) if pair else "-" for pair in found.values()]
        lines.append((one.label, other.label, *shown, _over(over)))
    columns = ("group", "is better than", *TITLES.values(), "interval over")
    return TextTable("probability of improvement", columns, lines, left=2)


def _improvement(
    one: "Group", other: "Group", quantity: "Quantity", given: Arguments
) -> "tuple[Estimate, tuple[str, ...]] | None":
    from meta_rl.comparison import improvement, shared_quantities

    if quantity not in shared_quantities([one, other]):
        return None
    stage = -1 if given.stage is None else given.stage
    return improvement(one, other, quantity, stage, given.resampling)


def _env_steps(group: "Group") -> str:
    steps = sorted(run.result.env_steps for run in group.runs)
    return _from_to(f"{steps[0]:,}", f"{steps[-1]:,}")


def _wall_time(group: "Group") -> str:
    times = sorted(run.wall_time_s for run in group.runs if run.wall_time_s is not None)
    return _from_to(told_time(times[0]), told_time(times[-1])) if times else "-"


def _from_to(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def told_time(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def told(found: "Estimate") -> str:
    """Return an estimate and its interval as text."""
    digits = 2 if abs(found.value) < 100 else 0
    if found.low is None or found.high is None:
        return f"{found.value:,.{digits}f} [-]"
    return f"{found.value:,.{digits}f} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]"


def _over(over: tuple[str, ...]) -> str:
    return f"{over[0]} only" if len(over) == 1 else " and ".join(over) or "-"


def _csv(groups: "Sequence[Group]", rows: "Sequence[Row]", given: Arguments) -> str:
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
        for quantity in TITLES:
            if pair := _improvement(one, other, quantity, given):
                writer.writerow(
                    {
                        "group": one.label,
                        "other": other.label,
                        "stage": -1 if given.stage is None else given.stage,
                        "quantity": quantity,
                        "statistic": "probability_of_improvement",
                        **_numbers(*pair),
                    }
                )
    return text.getvalue()


def _numbers(found: "Estimate", over: tuple[str, ...]) -> dict[str, object]:
    return {"value": found.value, "low": found.low, "high": found.high, "over": " ".join(over)}


def _pictures(groups: "Sequence[Group]", given: Arguments) -> "dict[Path, Figure]":
    from meta_rl import figures
    from meta_rl.comparison import shared_quantities

    curves = figures.adaptation_curves(groups, resampling=given.resampling)
    if given.figures is None:
        return {Path(given.runs[0]).parent / "comparison.png": curves}
    stage = -1 if given.stage is None else given.stage
    quantity = shared_quantities(groups)[0]
    pictures = {
        "adaptation": curves,
        "profiles": figures.performance_profiles(groups, quantity, stage, given.resampling),
        "tasks": figures.heat_map(groups, quantity, stage),
    }
    if metrics := training_metrics(groups, given.metrics):
        pictures["sample_efficiency"] = figures.sample_efficiency(groups, metrics)
    return {Path(given.figures) / f"{name}.png": figure for name, figure in pictures.items()}


def training_metrics(groups: "Sequence[Group]", chosen: tuple[str, ...]) -> list[str]:
    """Return the metrics of training to draw: the chosen ones, or the usual ones that are there."""
    known = dict.fromkeys(
        name for group in groups for run in group.runs for row in run.metrics for name in row
    )
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, list(known))
            raise UserError(
                f"no metric {name!r} in metrics.jsonl; {hint}It has: {', '.join(known)}"
            )
    return list(chosen) or [name for name in ("success/after", "return/after") if name in known]


def _write_text(text: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; choose another --output") from error


def _write_picture(figure: "Figure", path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; choose another --figures") from error
