"""`meta-rl compare`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from meta_rl.evaluation.comparison import Group

Format: TypeAlias = Literal["markdown", "csv", "latex"]
FORMATS: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


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
    from meta_rl.evaluation.comparison import group_runs, load_run
    from meta_rl.reports import comparison_tables as tables

    paths = dict.fromkeys(Path(run) for run in given.runs)
    groups = group_runs([load_run(path, given.split, given.actions) for path in paths])
    remarks = tables.check_protocols(groups, given.allow_different_protocols)
    _check_stage(groups, given.stage)
    options = tables.Options(given.stage, given.by_task, given.resampling)
    rows = tables.aggregate_rows(groups, options)
    remarks += tables.remarks_on(groups, rows, options)
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


def _check_stage(groups: "Sequence[Group]", stage: int | None) -> None:
    for group in groups:
        stages = len(group.first.adaptation_episodes)
        if stage is not None and not -stages <= stage < stages:
            raise UserError(
                f"no stage {stage} of {group.label}: its evaluation has the stages 0 to "
                f"{stages - 1}; more are made by `meta-rl evaluate RUN --adaptation-steps N`"
            )


def _pictures(groups: "Sequence[Group]", given: Arguments) -> "dict[Path, Figure]":
    from meta_rl.evaluation.comparison import shared_quantities
    from meta_rl.reports import figures
    from meta_rl.reports.comparison_tables import training_metrics

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
