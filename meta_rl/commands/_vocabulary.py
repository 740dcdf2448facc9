"""What commands share: one parser, and one way to name runs, tasks, devices and outputs.

A command's arguments inherit the flags that it has in common with others, so that a flag has one
name, one meaning and one help text.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

import tyro

from meta_rl.commands._help import explain
from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from meta_rl.deployment.task_choice import Target
    from meta_rl.evaluation.comparison import Run
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import TrainedAgent

Split: TypeAlias = Literal["train", "validation", "test"]
"""As `meta_rl.core.protocols.Split`, which would load torch for a help page."""
Actions: TypeAlias = Literal["sampled", "deterministic"]
File: TypeAlias = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Folder: TypeAlias = Annotated[str | None, tyro.conf.arg(metavar="FOLDER")]
Device: TypeAlias = Annotated[str | None, tyro.conf.arg(metavar="DEVICE")]
ArgumentsT = TypeVar("ArgumentsT")

STYLE = (tyro.conf.FlagCreatePairsOff,)
"""How flags look: `--by-task` has no `--no-by-task` beside it."""


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """Flags of commands that load one run's policy."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, such as runs/NAME."""
    checkpoint: str = "latest"
    """Checkpoint to load: latest, best (in the evaluations during training), or a .pt file."""
    device: Device = None
    """Device of the policy: cpu, cuda or cuda:N. Without it, the device of the run's config. If
    this machine lacks that one: its GPU, else its CPU."""


@dataclass(frozen=True, kw_only=True)
class InChangingTasks(OneRun):
    """Flags of commands that let tasks change, whether or not they did in training."""

    change_every: str | None = None
    """How often tasks change while the policy acts: `never`, after every `5 episodes` or `200
    steps`, or with a probability at each step, `geometric 0.01`. Without it, as in the run's
    config."""
    change_how: Literal["redraw", "drift", "sequence"] | None = None
    """What a task changes into: another one of its split (`redraw`), a task on the way to another
    one (`drift`), or the split's next (`sequence`). Without it, as in the run's config."""


@dataclass(frozen=True, kw_only=True)
class OneTask(OneRun):
    """Flags of commands that adapt a run's policy to one task."""

    task: str | None = None
    """Name of the task. A wrong name is answered with all names. Not needed if there is only
    one."""
    goal: str | None = None
    """Goal of the task: its index, as `evaluate --by-task` shows it (it need not begin at 0), or
    numbers of your own, such as --goal=-0.1,0.8,0.2. Without it, the first goal."""
    split: Split = "test"
    """Split of the task: train, validation, or test for held-out tasks."""
    episodes: int | None = None
    """Episodes to learn from in each round, at least 1. Without it, as many as in training."""
    seed: int = 0
    """Seed of the action noise and of the environment, at least 0."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "episodes", "rounds")
        check_at_least(0, self, "seed")


@dataclass(frozen=True, kw_only=True)
class SomeRuns:
    """Flags of commands that read the evaluations of several runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")] = ()
    """Run folders, such as runs/*. Other paths are skipped."""
    split: Split = "test"
    """Split of the evaluations: train, validation, or test for held-out tasks."""
    actions: Actions = "sampled"
    """Actions of the evaluations: `sampled` from the policy, or `deterministic`, its mode."""
    checkpoint: Literal["latest", "best"] | None = None
    """Checkpoint of the evaluations: latest or best. Without it, the evaluation with the most env
    steps of training counts. Among several, one by the protocol that all runs share comes first,
    then one of the latest checkpoint, then the newest."""
    skip_broken: bool = False
    """Leave out runs that are damaged or not evaluated, with a warning, instead of stopping."""
    allow_different_protocols: bool = False
    """Accept evaluations of different protocols, with a warning that names the differences."""


def parse(kind: type[ArgumentsT], words: list[str], command: str) -> ArgumentsT:
    """Read a command's arguments off the command line; ends the process on mistakes and help."""
    text = explain(kind)
    prog = f"meta-rl {command}"
    return tyro.cli(kind, args=words, prog=prog, description=text, config=STYLE)


def parse_known(
    kind: type[ArgumentsT], words: list[str], command: str
) -> tuple[ArgumentsT, list[str]]:
    """Read a command's arguments; return them and the other words."""
    text = explain(kind)
    prog = f"meta-rl {command}"
    known, rest = tyro.cli(
        kind, args=words, prog=prog, description=text, config=STYLE, return_unknown_args=True
    )
    return known, rest


def check_at_least(least: int, given: object, *names: str) -> None:
    """Refuse flags with numbers below the least; None and missing flags pass."""
    for name in names:
        value = getattr(given, name, None)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")


def load_agent(given: OneRun) -> "tuple[RunFolder, TrainedAgent]":
    """Load a run's policy on a device of this machine; print which, if it is another."""
    from meta_rl.experiment import catalog
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import load_trained

    folder = RunFolder(catalog.run_path(given.run))
    trained = load_trained(folder, given.checkpoint, given.device)
    tell_device(trained.experiment.device, trained.device)
    return folder, trained


def chosen_task(trained: "TrainedAgent", given: OneTask) -> "Target":
    """Return the task that the flags name; print a note if it is none of the run's."""
    from meta_rl.deployment.task_choice import family_task

    target = family_task(trained.distribution, given.task, given.goal, given.split)
    if target.distribution is not trained.distribution:
        print(f"note: {given.task} is not one of this run's {given.split} tasks")
    return target


def changing(trained: "TrainedAgent", given: InChangingTasks) -> "TrainedAgent":
    """Return the agent with its tasks changing as the flags say."""
    from dataclasses import replace

    from meta_rl.core.change import NEVER
    from meta_rl.experiment.building import build_distribution

    was = trained.experiment.change
    every, how = given.change_every or was.every, given.change_how or was.how
    stays = every == NEVER or (was.in_iterations and given.change_every is None)
    if stays:  # a stream of training is measured task by task, none of which changes
        for name in ("change_how", "changes", "relearn"):
            if getattr(given, name, None) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{flag} is for tasks that change, and here they do not; add --change-every, "
                    f"such as --change-every '5 episodes'"
                )
    if (every, how) == (was.every, was.how):
        return trained
    change = replace(was, every=every, how=how)
    if change.in_iterations:
        raise UserError(
            f"--change-every {every!r} is for training alone; give episodes, steps or geometric"
        )
    experiment = replace(trained.experiment, change=change)
    return replace(trained, experiment=experiment, distribution=build_distribution(experiment))


def tell_device(trained_on: str, device: "torch.device", as_data: bool = False) -> None:
    """Print the policy's device if it was trained on another.

    Args:
        as_data: The command's output is for programs, so the note goes to stderr.
    """
    if str(device) != trained_on:
        stream = sys.stderr if as_data else sys.stdout
        print(f"note: the run was trained on {trained_on}; here on {device}", file=stream)


def read_runs(given: SomeRuns, command: str) -> "tuple[list[Run], list[str]]":
    """Read runs, each with its evaluation; return them and remarks on what was left out."""
    if not given.runs:
        raise UserError(f"name at least one run folder: meta-rl {command} RUN RUN ...")
    from meta_rl.evaluation.finished import load_runs
    from meta_rl.evaluation.folder import Wanted
    from meta_rl.experiment import catalog

    wanted = Wanted(given.split, given.actions, given.checkpoint)
    return load_runs(map(catalog.run_path, given.runs), wanted, given.skip_broken)
