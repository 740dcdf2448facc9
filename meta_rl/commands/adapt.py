"""`meta-rl adapt`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from meta_rl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from meta_rl.protocols import TaskDistribution
    from meta_rl.types import Tasks


@dataclass(frozen=True)
class Arguments:
    """Adapts a run's policy to one task and writes the adapted policy as a file.

    The policy plays the task, learns from what it saw, and plays again, as one robot would.
    `meta_rl.adapted.load_policy(FILE)` loads the policy; `policy.predict(observation)` acts.
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run's folder."""
    task: str
    """Name of the task, e.g. reach-v3; the error of a wrong one lists all names."""
    goal: int | None = None
    """Which of the task's goals, by its index; none takes the first."""
    split: Literal["train", "test"] = "test"
    """Tasks trained on, or held-out ones."""
    episodes: int | None = None
    """Episodes to learn from in each round; none means as many as in training."""
    rounds: int = 1
    """Times the policy plays and adapts."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of the run's checkpoints: the newest, or the best by evaluation while training."""
    output: str | None = None
    """File of the adapted policy; none means RUN/adapted/TASK-GOAL.pt."""
    seed: int = 0
    """Seed of the actions' noise."""


def main(arguments: list[str]) -> int:
    """Adapt to one task."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl adapt")
    for name in ("rounds", "episodes"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(given, name)}")
    from meta_rl.adapted import save_policy
    from meta_rl.evaluation import episode_success
    from meta_rl.experiment import load_trained
    from meta_rl.returns import episode_sums
    from meta_rl.run_folder import RunFolder
    from meta_rl.seeding import Streams
    from meta_rl.types import Phase, Rollout
    from meta_rl.worker import RolloutWorker

    folder = RunFolder(Path(given.run))
    trained = load_trained(folder, given.checkpoint)
    agent, distribution, experiment = trained.agent, trained.distribution, trained.experiment
    tasks = find_task(distribution, given.task, given.goal, given.split)
    (task,) = tasks
    episodes = given.episodes or trained.adaptation_episodes
    phase = Phase(episodes)
    env = distribution.make_env(trained.device, workers=1)
    streams = Streams(given.seed, trained.device, purpose="adapt")
    worker = RolloutWorker(distribution, env, trained.device, streams)

    def tell(learned_from: int, rollout: Rollout, count: int) -> None:
        returns = episode_sums(rollout, rollout.reward, count)
        success = episode_success(rollout, count)
        # Agents with a memory learn from one episode to the next, so each stands for itself.
        size = count if agent.copies_share_experience else 1
        for start in range(0, count, size):
            mean, share = returns[start : start + size].mean(), success[start : start + size].mean()
            told = f", success {share:.2f}" if not share.isnan() else ""
            print(
                f"{task.label}  having learned from {learned_from + start} episodes: "
                f"return {mean:.2f}{told} (mean of {size})",
                flush=True,
            )

    try:
        context = agent.begin(tasks, 1)
        previous = None
        for number in range(given.rounds):
            rollout, context = worker.collect(agent, context, tasks, 1, phase, previous)
            tell(number * episodes, rollout, episodes)
            context, previous = agent.adapt(context, rollout), rollout
        last = phase if agent.copies_share_experience else Phase(1)
        measured, _ = worker.collect(agent, context, tasks, 1, last, previous)
        tell(given.rounds * episodes, measured, last.episodes)
        memory = worker.memory(previous, measured.reward.shape[1:])
    finally:
        env.close()
    default = folder.adapted / f"{task.name}-{task.index}.pt"
    path = Path(given.output) if given.output else default
    save_policy(
        path,
        agent,
        experiment.agent,
        context,
        memory,
        distribution.spec,
        task,
        distribution.protocol(),
    )
    print(f"adapted policy: {path}")
    return 0


def holding(
    distribution: "TaskDistribution", name: str, split: Literal["train", "test"]
) -> "TaskDistribution":
    """Return a distribution that holds tasks of that name: this one, or one beyond it."""
    from meta_rl.protocols import OpenDistribution

    if name in distribution.tasks(split).names or not isinstance(distribution, OpenDistribution):
        return distribution
    return distribution.beyond(name) or distribution


def find_task(
    distribution: "TaskDistribution",
    name: str,
    goal: int | None,
    split: Literal["train", "test"],
) -> "Tasks":
    """Return the one task that is meant."""
    tasks = distribution.tasks(split)
    known = list(dict.fromkeys(tasks.names))
    rows = [row for row, other in enumerate(tasks.names) if other == name]
    if not rows:
        hint = did_you_mean(name, known)
        raise UserError(
            f"no task {name!r} in the {split} split of {distribution.family}; {hint}"
            f"It has: {', '.join(known)}"
        )
    indices = [int(tasks.index[row]) for row in rows]
    if goal is None:
        return tasks[rows[:1]]
    if goal not in indices:
        raise UserError(
            f"no goal {goal} of {name} in the {split} split; it has {min(indices)} to "
            f"{max(indices)}"
        )
    return tasks[[rows[indices.index(goal)]]]
