"""`meta-rl render`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from meta_rl.core.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Films a run's policy on one task, before and after it adapts to it.

    The episodes play side by side and in step. Drawing needs no display. A task that the run does
    not hold may be one of the same family that has the same observations and actions: any of
    Meta-World's 50, for a policy trained on Meta-World.
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run's folder."""
    task: str
    """Name of the task, e.g. reach-v3; the error of a wrong one lists the run's names."""
    goal: str | None = None
    """Which of the task's goals: its index, or numbers of your own, e.g. --goal=-0.1,0.8,0.2; none
    takes the first."""
    split: Literal["train", "test"] = "test"
    """Tasks trained on, or held-out ones."""
    episodes: int | None = None
    """Episodes to learn from in each round; none means as many as in training."""
    rounds: int = 1
    """Times the policy adapts; each is filmed."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Film actions drawn from the policy, or its mode."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of the run's checkpoints: the newest, or the best by evaluation while training."""
    output: str | None = None
    """An .mp4, or a .png for a strip of pictures; none means RUN/videos/TASK-GOAL.mp4."""
    seed: int = 0
    """Seed of the actions' noise."""


def main(arguments: list[str]) -> int:
    """Film an adaptation."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl render")
    for name in ("rounds", "episodes"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(given, name)}")
    from meta_rl.deployment.task_choice import family_task
    from meta_rl.reports.film import check_ending, film_adaptation, write_film
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import load_trained

    folder = RunFolder(Path(given.run))
    if given.output:
        check_ending(Path(given.output))
    trained = load_trained(folder, given.checkpoint)
    target = family_task(trained.distribution, given.task, given.goal, given.split)
    if target.distribution is not trained.distribution:
        print(f"{given.task} is no {given.split} task of this run; it is from beyond them")
    trained, tasks = replace(trained, distribution=target.distribution), target.tasks
    takes = film_adaptation(trained, tasks, given.rounds, given.episodes, given.actions, given.seed)
    for take in takes:
        end = take.moments[-1]
        told = "" if end.success is None else f", success {'yes' if end.success else 'no'}"
        print(
            f"{target.label}  {take.caption}: return {end.return_so_far:.2f}{told} "
            f"({end.steps} steps)"
        )
    path = Path(given.output) if given.output else folder.videos / f"{target.file_name}.mp4"
    print(f"film: {write_film(takes, path, f'{trained.experiment.name}, {target.label}')}")
    return 0
