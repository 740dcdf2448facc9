"""`meta-rl adapt`."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from meta_rl.commands._vocabulary import (
    File,
    InChangingTasks,
    OneTask,
    changing,
    check_at_least,
    chosen_task,
    load_agent,
    parse,
)
from meta_rl.core.errors import UserError
from meta_rl.core.outputs import check_replaceable, to_json, writing
from meta_rl.core.words import counted

if TYPE_CHECKING:
    from meta_rl.deployment.rounds import Report, Round
    from meta_rl.deployment.task_choice import Target
    from meta_rl.reports.film import Take
    from meta_rl.rollouts.adaptation import Adaptation
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import TrainedAgent

LIMIT_UNTIL_STABLE = 20
"""Rounds after which `--until-stable` gives up, without `--rounds`."""


@dataclass(frozen=True, kw_only=True)
class Arguments(OneTask, InChangingTasks):
    """Adapts a run's policy to one task while it acts, and writes the adapted policy as files.

    The policy plays the task, learns from that, and plays again, as one robot would. The task is
    one of the run's family, with a goal of its own or one that you give as numbers. With --env it
    is any Gymnasium environment. `meta_rl.deployment.policy_file.load` loads FILE.pt.
    `torch.export.load` loads FILE.pt2, without this project. FILE.jsonl has a line for every round.
    """

    env: str | None = None
    """Gymnasium environment to adapt to instead of a task: module:attribute,
    path/to/file.py:attribute, or an id that Gymnasium knows."""
    rounds: int | None = None
    """Times that the policy plays and adapts, at least 1. Without it, 1. --until-stable stops after
    this many at the latest; without it, 20."""
    until_stable: bool = False
    """Adapt until three rounds in a row bring no improvement; keep the policy of the best round."""
    watch: int = 0
    """Rounds to play afterwards, at least 0. The policy adapts again only when the return drops."""
    freeze_memory: bool = False
    """For a policy with a memory (RL²): write one that learns nothing more while it acts."""
    output: File = None
    """File of the adapted policy, FILE.pt. Without it, RUN/adapted/TASK-GOAL.pt. For a run in
    pretrained/, runs/NAME/adapted/TASK-GOAL.pt."""
    video: File = None
    """Film of the first episode of the first and the last round: an .mp4, or a .png strip of
    pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "watch")
        if self.env is not None and (self.task is not None or self.goal is not None):
            raise UserError("--env is a task of its own; leave out --task and --goal")
        if self.output is not None and Path(self.output).suffix != ".pt":
            raise UserError(f"--output must end in .pt, got {self.output}")


def main(arguments: list[str]) -> int:
    """Adapt to one task."""
    given = parse(Arguments, arguments, "adapt")
    from meta_rl.reports.film import check_film, write_film

    if given.video:
        check_film(Path(given.video), "choose another --video")
    if given.output:
        check_files(Path(given.output))
    folder, trained = load_agent(given)
    trained = changing(trained, given)
    if given.freeze_memory and trained.agent.copies_share_experience:
        raise UserError(
            f"--freeze-memory: {trained.experiment.agent_name} has no memory that learns while it "
            f"acts; leave the flag out"
        )
    target = target_of(given, trained)
    default = folder.adapted / f"{target.file_name}.pt"
    path = Path(given.output) if given.output else default
    check_files(path)
    log = Log(path.with_suffix(".jsonl"), target.label)

    def keep(known: "Adaptation") -> None:
        save(path, known, folder, trained, target, given)

    takes = adapt(given, trained, target, log, keep)
    if given.video:
        title = f"{trained.experiment.name}, {target.label}"
        print(f"film: {write_film(takes, Path(given.video), title)}")
    print(f"log: {log.path}")
    print(f"program: {path.with_suffix('.pt2')}")
    print(f"adapted policy: {path}")
    return 0


def target_of(given: Arguments, trained: "TrainedAgent") -> "Target":
    """Return the task, or the environment, that the flags name."""
    from meta_rl.core.continual import simulated
    from meta_rl.core.lives import changes_of
    from meta_rl.deployment.task_choice import environment

    if given.env is None:
        target = chosen_task(trained, given)
    else:
        target = environment(given.env, trained.distribution.spec)
    stays = changes_of(simulated(target.distribution)) is None
    if stays and trained.experiment.change.happens and given.change_every:
        raise UserError(
            f"--change-every: {target.label} is not one of the run's tasks, so it cannot change "
            f"into another; leave the flag out, or name one of the run's tasks"
        )
    return target


def adapt(
    given: Arguments,
    trained: "TrainedAgent",
    target: "Target",
    log: "Log",
    keep: "Callable[[Adaptation], None]",
) -> "list[Take]":
    """Let the agent play and learn, and keep what that gave; return the filmed takes."""
    from meta_rl.core.continual import simulated
    from meta_rl.core.lives import changes_of
    from meta_rl.core.seeding import Streams
    from meta_rl.deployment.rounds import OnlineAdaptation, Round
    from meta_rl.reports.film import Take, filming
    from meta_rl.rollouts.collector import RolloutCollector

    device, distribution = trained.device, simulated(target.distribution)
    episodes, rounds = budget(given, trained)
    takes: list[Take] = []
    with closing(distribution.make_env(device, workers=1)) as env:
        filmed = filming(env, distribution) if given.video else None
        changes = changes_of(distribution)
        collector = RolloutCollector(distribution.spec, filmed or env, device, changes)

        def tell(report: "Report") -> None:
            log.tell(report)
            if filmed is not None and isinstance(report, Round):
                # the first round and the last
                takes[1:] = [Take(report.learned_from, tuple(filmed.moments))]

        OnlineAdaptation(
            collector,
            trained.agent,
            target.tasks,
            Streams(given.seed, device, purpose="adapt"),
            episodes,
            rounds,
            given.until_stable,
            given.watch,
            tell,
            keep,
        ).run()
    return takes


def save(
    path: Path,
    known: "Adaptation",
    folder: "RunFolder",
    trained: "TrainedAgent",
    target: "Target",
    given: Arguments,
) -> None:
    """Write the adapted policy and its origin, and the program beside it."""
    import torch

    from meta_rl.core.types import Tasks
    from meta_rl.deployment import policy_file
    from meta_rl.deployment.rounds import called
    from meta_rl.rollouts.collector import last_action_and_reward

    experiment, spec = trained.experiment, trained.distribution.spec
    one_world = torch.Size((1, 1))
    if known.life is not None:  # the task may have become another
        task = known.life.course.task(0, int(known.life.number))
        target = replace(target, tasks=Tasks.stack([task]), label=called(task))
    policy_file.save(
        path,
        trained.agent,
        experiment.agent_name,
        experiment.agent,
        known.context,
        last_action_and_reward(known.remembered, spec, one_world, trained.device),
        spec,
        given.freeze_memory,
        {
            "task": target.label,
            "run": str(folder.path),
            "agent": experiment.agent_name,
            "checkpoint": given.checkpoint,
            "meta_iterations": trained.meta_iterations,
            "protocol": target.protocol,
            "adaptation_episodes": known.episodes,
            "seed": given.seed,
        },
    )


def check_files(policy: Path) -> None:
    """Raise a UserError unless the policy's file, its program and its log can be written."""
    files = (policy.with_suffix(ending) for ending in (".pt", ".pt2", ".jsonl"))
    check_replaceable("choose another --output", *files)
    for folder in (policy.parent, policy.parent.parent):
        own = (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()
        if own and policy.parent != folder / "adapted":
            raise UserError(
                f"{policy} would lie among the files of the run {folder}; choose another --output, "
                f"such as {folder / 'adapted' / policy.name}"
            )


def budget(given: Arguments, trained: "TrainedAgent") -> tuple[int, int]:
    """Return the episodes of a round, and the rounds; print a note if these are many."""
    agent = trained.agent
    shared = agent.copies_share_experience
    trained_steps = max(1, len(agent.phases) - 1)
    episodes = given.episodes or trained.adaptation_episodes
    rounds = given.rounds or (LIMIT_UNTIL_STABLE if given.until_stable else 1)
    steps, unit = (rounds, "rounds") if shared else (rounds * episodes, "episodes")
    if steps > trained_steps:
        most = "up to " if given.until_stable else ""
        print(f"note: adapting for {most}{steps} {unit}; the agent was trained for {trained_steps}")
    return episodes, rounds


class Log:
    """Prints rounds and events as they happen, and writes them as lines of JSON."""

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self._label = label
        self._mode = "w"  # an earlier log stays until there is something to tell

    def tell(self, report: "Report") -> None:
        """Print and write a round or an event."""
        from meta_rl.deployment.rounds import Round

        row = asdict(report)
        if isinstance(report, Round):
            row["return"] = report.mean_return
            print(f"{self._label}  {describe(report)}", flush=True)
        else:
            print(f"{self._label}  {report.event}: {report.detail}", flush=True)
        with writing(self.path, "choose another --output"), self.path.open(self._mode) as file:
            file.write(to_json(row) + "\n")
        self._mode = "a"


def describe(result: "Round") -> str:
    """Return a round as one line."""
    told = [f"return {result.mean_return:.2f}"]
    if result.success is not None:
        told.append(f"success {result.success:.2f}")
    if result.kl is not None:
        told.append(f"KL {result.kl:.3g}")
    learned = f"having learned from {counted(result.learned_from, 'episode')}"
    doing = "adapting" if result.doing == "adapt" else "executing"
    told.append(counted(len(result.returns), "episode"))
    return f"round {result.number}, {doing}, {learned}: {', '.join(told)}"
