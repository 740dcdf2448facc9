"""`meta-rl report`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from meta_rl.evaluation.comparison import Group
    from meta_rl.reports.page import Page, Video


@dataclass(frozen=True)
class Arguments:
    """Tells what runs achieved, and how, in one HTML file to send, print or publish.

    Runs that differ by their seed alone are one group. The file opens from disk and asks the
    network for nothing.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of the runs."""
    split: Literal["train", "test"] = "test"
    """Results on tasks trained on, or on held-out ones."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Results of actions drawn from the policy, or of its mode."""
    output: str = "report.html"
    """File of the report."""
    videos: bool = False
    """Film the first run of each group on the first task, before and after adaptation."""
    wandb: bool = False
    """Also log figures, tables, videos and the page to Weights & Biases, in a run of the project
    that the first run is in."""
    allow_different_protocols: bool = False
    """Report all the same, with a warning that names what differs."""


def main(arguments: list[str]) -> int:
    """Write a report."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl report")
    if not given.runs:
        raise UserError("name at least one run folder: meta-rl report RUN RUN ...")
    from meta_rl.evaluation.comparison import group_runs, load_run
    from meta_rl.reports.comparison_tables import Options, check_protocols
    from meta_rl.reports.report import make_page

    paths = dict.fromkeys(Path(run) for run in given.runs)
    groups = group_runs([load_run(path, given.split, given.actions) for path in paths])
    warnings = check_protocols(groups, given.allow_different_protocols)
    page = make_page(groups, Options(), warnings, _films(groups, given) if given.videos else [])
    output = Path(given.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page.html(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}; choose another --output") from error
    print(f"report: {output}")
    if given.wandb:
        _log(page, output, groups)
    return 0


def _films(groups: "Sequence[Group]", given: Arguments) -> "list[Video]":
    """Film the first run of each group on the first task, before and after adaptation."""
    from meta_rl.reports.film import film_adaptation, frames, title, write_film
    from meta_rl.reports.page import Video
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import load_trained

    films = []
    for group in groups:
        run = group.runs[0]
        folder = RunFolder(run.path)
        trained = load_trained(folder, "best" if run.result.checkpoint == "best" else "latest")
        tasks = trained.distribution.tasks(given.split)[:1]
        (task,) = tasks
        takes = film_adaptation(trained, tasks, actions=given.actions)
        name = title(trained, tasks)
        path = write_film(takes, folder.videos / f"{task.name}-{task.index}.mp4", name)
        ends = ", ".join(f"{take.caption} {take.moments[-1].return_so_far:.1f}" for take in takes)
        caption = f"{run.path.name} on {task.label}, return {ends}"
        films.append(Video(group.label, caption, path, frames(takes, name)[-1]))
    return films


def _log(page: "Page", output: Path, groups: "Sequence[Group]") -> None:
    """Record the report in W&B, in the project of the first run."""
    from meta_rl.experiment.config import TrackingConfig, from_dict
    from meta_rl.reports.page import anchor
    from meta_rl.runs.sinks.base import Beginning, Sinks
    from meta_rl.runs.sinks.console import ConsoleSink
    from meta_rl.runs.sinks.wandb import WandbSink

    first = groups[0].runs[0]
    tracking = from_dict(
        TrackingConfig, first.experiment["tracking"], "tracking", str(first.path / "config.yaml")
    )
    if tracking.mode == "off":
        tracking = replace(tracking, mode="auto")
    tracking = replace(tracking, group=None, tags=(*tracking.tags, "report"))
    runs = {group.label: [run.path.name for run in group.runs] for group in groups}
    wandb = WandbSink(tracking)
    sink = Sinks([wandb, ConsoleSink()])
    sink.start(Beginning(output.parent, f"report of {', '.join(runs)}", {"groups": runs}))
    for section in page.sections:
        folded = [table for part in section.folded for table in part.tables]
        for table in [*section.tables, *folded]:
            sink.log_table(f"{section.anchor}/{anchor(table.title)}", table.columns, table.rows)
        for figure in section.figures:
            sink.log_figure(f"{section.anchor}/{figure.name}", figure.drawing)
        for video in section.videos:
            sink.log_video(f"{section.anchor}/{anchor(video.name)}", video.path, video.caption)
    sink.log_html("report", output)
    sink.finish()
    print(f"W&B: {wandb.url or output.parent / 'wandb'}")
