"""`meta-rl render`."""

from dataclasses import dataclass, replace
from pathlib import Path

from meta_rl.commands._vocabulary import Actions, File, OneTask, chosen_task, load_agent, parse


@dataclass(frozen=True, kw_only=True)
class Arguments(OneTask):
    """Films a run's policy on one task, before and after it adapts to it.

    The film shows the episodes side by side and in step. Drawing needs no display. --task may also
    name a task that is not the run's, if its family has it with the same observations and actions.
    """

    rounds: int = 1
    """Times that the policy adapts, at least 1; each is filmed."""
    actions: Actions = "sampled"
    """Actions in the film: `sampled` from the policy, or `deterministic`, its mode. Adaptation
    always samples."""
    output: File = None
    """File of the film: an .mp4, or a .png strip of pictures. Without it, RUN/videos/TASK-GOAL.mp4.
    For a run in pretrained/, runs/NAME/videos/TASK-GOAL.mp4."""


def main(arguments: list[str]) -> int:
    """Film an adaptation."""
    given = parse(Arguments, arguments, "render")
    from meta_rl.reports.film import check_film, film_adaptation, write_film

    advice = "choose another --output"
    if given.output:
        check_film(Path(given.output), advice)
    folder, trained = load_agent(given)
    target = chosen_task(trained, given)
    path = Path(given.output) if given.output else folder.videos / f"{target.file_name}.mp4"
    check_film(path, advice)
    trained, tasks = replace(trained, distribution=target.distribution), target.tasks
    takes = film_adaptation(trained, tasks, given.rounds, given.episodes, given.actions, given.seed)
    for take in takes:
        end = take.moments[-1]
        told = "" if end.success is None else f", success {'yes' if end.success else 'no'}"
        print(
            f"{target.label}  {take.caption}: return {end.return_so_far:.2f}{told} "
            f"({end.steps} steps)"
        )
    print(f"film: {write_film(takes, path, f'{trained.experiment.name}, {target.label}')}")
    return 0
