"""Compares a stream of task names with trainings on each name alone: forward transfer.

    python scripts/forward_transfer.py runs/STREAM --alone runs/ALONE ...

The stream was trained with `change: {every: N iterations, how: sequence}` and evaluated on the way
(`evaluation.every`); every other run on one of its names, by the same agent and as often evaluated.
Areas under learning curves are means over the evaluations of N meta-iterations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from _entry import run_script
from rich.console import Console
from rich.table import Table

from meta_rl.core.errors import UserError
from meta_rl.evaluation.comparison import differing_fields, told_differences
from meta_rl.evaluation.continual import forward_transfer, read_curves, read_stream
from meta_rl.experiment.config import to_dict
from meta_rl.experiment.identity import flat, learning_part
from meta_rl.runs.folder import RunFolder


@dataclass(frozen=True)
class Args:
    """Compare a stream of task names with trainings on each name alone."""

    stream: Annotated[Path, tyro.conf.Positional]
    """Run folder of the stream."""
    alone: tuple[Path, ...]
    """Run folders of trainings on one task name each."""


def transfers(stream: Path, alone: tuple[Path, ...]) -> dict[str, tuple[float, float, float]]:
    """Return, by task name, the areas under the curves in the stream and alone, and the transfer.

    Raises:
        UserError: A run is no stream, has no evaluations, trains on other names, has another agent
            than the stream, or was evaluated otherwise.
    """
    experiment = to_dict(RunFolder(stream).experiment())
    record = read_stream(stream, experiment)
    if record is None:
        raise UserError(
            f"{stream} has no evaluations of a stream: train it with --change.every 'N iterations' "
            f"--change.how sequence --evaluation.every 1, or the like"
        )
    if record.score.name != "success":
        raise UserError(
            f"{stream} is judged by {record.score.label}, and forward transfer is of success: it "
            f"is measured against the highest there can be, which is 1"
        )
    found = {}
    for run in alone:
        theirs = to_dict(RunFolder(run).experiment())
        curves = read_curves(run, theirs, record.turn)
        if curves is None or len(curves.names) != 1 or curves.names[0] not in record.names:
            raise UserError(
                f"{run} must be trained and evaluated (--evaluation.every) on one of the stream's "
                f"names: {', '.join(record.names)}"
            )
        (name,) = curves.names
        place = record.names.index(name)
        if differing := differing_fields([what_is_shared(each) for each in (experiment, theirs)]):
            raise UserError(
                f"{run} differs from {stream} by more than its tasks "
                f"({told_differences(differing)}); train both alike"
            )
        if (due := record.times(place)) != curves.times(0):
            raise UserError(
                f"{run} was evaluated after {curves.times(0)} of its first {record.turn} "
                f"meta-iterations, and {stream} after {due} of those on {name}; evaluate both as "
                f"often (--evaluation.every)"
            )
        within, alone_area = record.while_learned(place), curves.while_learned(0)
        found[name] = within, alone_area, forward_transfer(within, alone_area)
    return found


def what_is_shared(experiment: dict[str, Any]) -> dict[str, Any]:
    """Return what a stream and a training on one of its names have in common, by dotted names.

    The latter may be longer than the name's turn: only as much of it counts.
    """
    settings = {**learning_part(experiment), "evaluation": experiment["evaluation"]}
    for name in ("change", "meta_iterations"):
        settings.pop(name, None)
    named = ("envs.benchmark", "envs.task")  # which names the tasks have
    return {name: value for name, value in flat(settings).items() if name not in named}


def main(args: Args) -> None:
    """Print the table."""
    table = Table(title=f"{args.stream.name}: area under each task's curve of success")
    for column in ("task", "in the stream", "alone", "forward transfer"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, numbers in transfers(args.stream, args.alone).items():
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
