"""`meta-rl report`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from meta_rl.commands._vocabulary import Device, OneRun, SomeRuns, load_agent, parse, read_runs
from meta_rl.core.errors import UserError
from meta_rl.core.outputs import check_file, check_folder, write_output

if TYPE_CHECKING:
    from meta_rl.evaluation.comparison import Group, Run
    from meta_rl.reports.beliefs import Beliefs
    from meta_rl.reports.page import Page, Video
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import TrainedAgent


@dataclass(frozen=True, kw_only=True)
class Arguments(SomeRuns):
    """Tells what runs achieved, and how, in one HTML file to send, print or publish.

    Runs that differ only in their seed are one group. The file opens from disk and needs no
    network.
    """

    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = "report.html"
    """File of the report."""
    videos: bool = False
    """Film the first run of each group on the first task, before and after adaptation."""
    beliefs: bool = False
    """Play 20 tasks with the first run of each group, and draw its beliefs about them. Only varibad
    and metric have beliefs."""
    device: Device = None
    """Device of the policies in --videos and --beliefs: cpu, cuda or cuda:N. Without it, the device
    of each run's config. If this machine lacks that one: its GPU, else its CPU."""
    wandb: bool = False
    """Also log figures, tables, videos and the page to Weights & Biases, in the project of the
    first run."""


def main(arguments: list[str]) -> int:
    """Write a report."""
    given = parse(Arguments, arguments, "report")
    output = Path(given.output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output must end in .html, got {given.output!r}")
    check_file(output, "choose another --output")
    from meta_rl.evaluation.comparison import group_runs
    from meta_rl.reports.comparison_tables import Options, check_protocols
    from meta_rl.reports.report import make_page

    runs, skipped = read_runs(given, "report")
    groups = group_runs(runs)
    warnings = check_protocols(groups, given.allow_different_protocols)
    for told in [*skipped, *warnings, *(remark for run in runs for remark in run.remarks)]:
        print(told)
    with tempfile.TemporaryDirectory() as spare:
        loaded = _loaded(groups, given) if given.videos or given.beliefs else []
        films = _films(loaded, groups, given, Path(spare)) if given.videos else []
        beliefs = _beliefs(loaded, groups, given) if given.beliefs else []
        page = make_page(groups, Options(every_stage=True), [*skipped, *warnings], films, beliefs)
        write_output(page.html().encode(), output, "choose another --output")
        print(f"report: {output}")
        if given.wandb:
            _log(page, output, groups)
    return 0


def _films(
    loaded: "Sequence[tuple[Run, RunFolder, TrainedAgent]]",
    groups: "Sequence[Group]",
    given: Arguments,
    spare: Path,
) -> "list[Video]":
    """Film the first run of each group on the first task, before and after adaptation.

    Args:
        spare: Folder for films of runs whose own folders cannot be written; the page holds them.
    """
    from meta_rl.deployment.task_choice import in_file_names
    from meta_rl.reports.film import film_adaptation, frames, title, write_film
    from meta_rl.reports.page import Video

    films = []
    for number, (group, (run, folder, trained)) in enumerate(zip(groups, loaded, strict=True)):
        place = folder.videos
        try:
            check_folder(place, "the report holds the film all the same")
        except UserError as error:
            print(f"warning: {error}")
            place = spare / str(number)
        tasks = trained.distribution.tasks(given.split)[:1]
        (task,) = tasks
        rounds = min(1, trained.experiment.evaluation.adaptation_steps)
        takes = film_adaptation(trained, tasks, rounds, actions=given.actions)
        name = title(trained, tasks)
        path = write_film(takes, place / f"{in_file_names(task.name)}-{task.index}.mp4", name)
        ends = ", ".join(f"{take.caption} {take.moments[-1].return_so_far:.1f}" for take in takes)
        caption = f"{run.name} on {task.label}, return {ends}"
        films.append(Video(group.label, caption, path, frames(takes, name)[-1]))
    return films


def _beliefs(
    loaded: "Sequence[tuple[Run, RunFolder, TrainedAgent]]",
    groups: "Sequence[Group]",
    given: Arguments,
) -> "list[Beliefs]":
    """Record the beliefs of each group's first run about the split's first tasks."""
    from meta_rl.reports.beliefs import TASKS, watch_beliefs

    watched = []
    for group, (run, _, trained) in zip(groups, loaded, strict=True):
        tasks = trained.distribution.tasks(given.split)[:TASKS]
        found = watch_beliefs(trained, tasks, group.label)
        if found is None:
            print(f"note: {run.name} has no beliefs to draw; --beliefs leaves it out")
        else:
            watched.append(found)
    return watched


def _loaded(
    groups: "Sequence[Group]", given: Arguments
) -> "list[tuple[Run, RunFolder, TrainedAgent]]":
    """Load the policy of the first run of each group: the one whose evaluation is reported."""
    loaded = []
    for run in (group.runs[0] for group in groups):
        measured = run.result.checkpoint
        which = OneRun(run=str(run.path), checkpoint=measured, device=given.device)
        loaded.append((run, *load_agent(which)))
    return loaded


def _log(page: "Page", output: Path, groups: "Sequence[Group]") -> None:
    """Record the report in W&B, in the project of the first run."""
    from meta_rl.experiment.config import TrackingConfig, from_dict
    from meta_rl.reports.page import anchor
    from meta_rl.runs.sinks.base import Beginning, Sinks
    from meta_rl.runs.sinks.console import ConsoleSink
    from meta_rl.runs.sinks.wandb import WandbSink

    first = groups[0].runs[0]
    tracking = from_dict(
        TrackingConfig,
        first.experiment.get("tracking", {}),
        "tracking",
        str(first.path / "config.yaml"),
    )
    if tracking.mode == "off":
        tracking = replace(tracking, mode="auto")
    tracking = replace(tracking, group=None, tags=(*tracking.tags, "report"))
    runs = {group.label: [run.name for run in group.runs] for group in groups}
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
