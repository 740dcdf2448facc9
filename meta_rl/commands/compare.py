"""`meta-rl compare`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from meta_rl.commands._vocabulary import File, Folder, SomeRuns, parse, read_runs
from meta_rl.core.errors import UserError
from meta_rl.core.outputs import check_file, png, write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from meta_rl.evaluation.comparison import Group

Format: TypeAlias = Literal["markdown", "csv", "latex"]
PICTURES = ("adaptation", "profiles", "tasks", "sample_efficiency")
"""Names of the pictures in --figures."""
FORMATS: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


@dataclass(frozen=True, kw_only=True)
class Arguments(SomeRuns):
    """Compares runs by one evaluation of each, in tables and pictures.

    Runs that differ only in their seed are one group, a row of the tables. Its interquartile mean
    (IQM), mean and median have 95 % bootstrap intervals. The probability of improvement is how
    often a seed of one group beats a seed of another on a task (Agarwal et al. 2021). Results
    measured by different protocols are refused.
    """

    stage: int | None = None
    """Stage of adaptation: 0 is before any, -1 is the last. Without it, tables show several stages;
    pictures and pairs take the last."""
    by_task: bool = False
    """Also show the mean of each task name, or of each goal if there is one name."""
    resampling: Literal["whole-runs", "rliable"] = "whole-runs"
    """Unit of the bootstrap. `whole-runs` draws runs with all of their tasks, then tasks within
    each name. `rliable` draws runs for each task on its own, as that library does; its intervals
    are too narrow for meta-policies."""
    format: Format | None = None
    """Text format of the tables. Without it, the ending of --output decides; without that, tables
    are drawn for the terminal."""
    output: File = None
    """File of the tables: .md, .csv or .tex, or any name with --format. Without it, they are
    printed."""
    figures: Folder = None
    """Folder for all pictures, as PNG. Without it, only the adaptation curves are drawn, to
    comparison.png beside the first run."""
    metrics: tuple[str, ...] = ()
    """Metrics of training for the learning curves of --figures, named as in metrics.jsonl. Without
    it, success and return after adaptation."""


def main(arguments: list[str]) -> int:
    """Compare runs."""
    given = parse(Arguments, arguments, "compare")
    if given.metrics and given.figures is None:
        raise UserError("--metrics is for the learning curves of --figures: give both")
    kind = given.format or _format_of(given.output)
    if given.output is not None:
        check_file(Path(given.output), "choose another --output")
    if given.figures is not None:
        for name in PICTURES:
            check_file(Path(given.figures) / f"{name}.png", "choose another --figures")
    from meta_rl.evaluation.comparison import group_runs
    from meta_rl.reports import comparison_tables as tables

    runs, remarks = read_runs(given, "compare")
    groups = group_runs(runs)
    remarks += tables.check_protocols(groups, given.allow_different_protocols)
    _check_stage(groups, given.stage)
    options = tables.Options(given.stage, given.by_task, given.resampling)
    rows = tables.aggregate_rows(groups, options)
    remarks += tables.remarks_on(groups, rows, options)
    pictures = _pictures(groups, given)
    found = tables.tables_of(groups, rows, options)
    if kind is None:
        for table in found:
            table.print()
    else:
        text = (
            tables.csv_text(groups, rows, options)
            if kind == "csv"
            else "\n".join(table.text(kind) for table in found)
        )
        if given.output is None:
            print(text, end="")
        else:
            write_output(text.encode(), Path(given.output), "choose another --output")
            remarks.append(f"tables: {given.output}")
    for path, figure in pictures.items():
        try:
            write_output(png(figure), path, "choose another --figures")
        except UserError as error:
            if given.figures is not None:
                raise
            remarks.append(f"warning: {error}")  # nobody asked for it
        else:
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
            f"--format must name the format; pictures go to --figures FOLDER"
        )
    return FORMATS[suffix]


def _check_stage(groups: "Sequence[Group]", stage: int | None) -> None:
    for group in groups:
        stages = len(group.first.adaptation_episodes)
        if stage is not None and not -stages <= stage < stages:
            raise UserError(
                f"no stage {stage} of {group.label}: its evaluation has the stages 0 to "
                f"{stages - 1}; `meta-rl evaluate RUN --adaptation-steps N` makes more"
            )


def _pictures(groups: "Sequence[Group]", given: Arguments) -> "dict[Path, Figure]":
    from meta_rl.evaluation.comparison import shared_quantities
    from meta_rl.reports import figures
    from meta_rl.reports.comparison_tables import training_metrics

    curves = figures.adaptation_curves(groups, resampling=given.resampling)
    if given.figures is None:
        return {_beside(groups[0].runs[0].path) / "comparison.png": curves}
    stage = -1 if given.stage is None else given.stage
    quantity = shared_quantities(groups)[0]
    metrics = training_metrics(groups, given.metrics)
    drawn = (
        curves,
        figures.performance_profiles(groups, quantity, given.stage, given.resampling),
        figures.heat_map(groups, quantity, stage),
        figures.sample_efficiency(groups, metrics) if metrics else None,
    )
    paths = (Path(given.figures) / f"{name}.png" for name in PICTURES)
    return {path: figure for path, figure in zip(paths, drawn, strict=True) if figure is not None}


def _beside(run: Path) -> Path:
    """Return the folder that holds a run, also for names such as `.`."""
    return run.parent if run.name not in ("", "..") else run.resolve().parent
