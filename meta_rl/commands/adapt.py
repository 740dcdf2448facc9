"""`meta-rl adapt`."""

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from meta_rl.deployment.rounds import Report, Round
    from meta_rl.runs.trained import TrainedAgent

LIMIT_UNTIL_STABLE = 20
"""Rounds after which `--until-stable` gives up, unless `--rounds` says."""


@dataclass(frozen=True)
class Arguments:
    """Adapts a run's policy to one task while it acts, and writes the adapted policy as files.

    The policy plays the task, learns from what it saw, and plays again, as one robot would. The
    task is one of the run's family, with a goal of its own or one that you give as numbers, or
    any Gymnasium environment. FILE.pt loads with `meta_rl.deployment.policy_file.load`, FILE.pt2
    with `torch.export.load`, without this project; FILE.jsonl tells of every round.
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run's folder."""
    task: str | None = None
    """Name of the task, e.g. reach-v3; may be left out where the split has only one."""
    goal: str | None = None
    """Which of the task's goals: its index, or a goal of your own as numbers, e.g.
    --goal=-0.1,0.8,0.2; none takes the first."""
    env: str | None = None
    """Adapt to a Gymnasium environment instead: module:attribute, path/to/file.py:attribute, or an
    id that Gymnasium knows."""
    split: Literal["train", "test"] = "test"
    """Tasks trained on, or held-out ones."""
    episodes: int | None = None
    """Episodes to learn from in each round; none means as many as in training."""
    rounds: int | None = None
    """Times the policy plays and adapts; with --until-stable the most of them."""
    until_stable: bool = False
    """Adapt until several rounds in a row bring no improvement; keep what played the best one."""
    watch: int = 0
    """Then execute for so many rounds, and adapt again whenever the return drops."""
    freeze_memory: bool = False
    """Let an adapted policy with a memory (RL²) learn nothing more while it acts."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of the run's checkpoints: the newest, or the best by evaluation while training."""
    output: str | None = None
    """File of the adapted policy; none means RUN/adapted/TASK-GOAL.pt."""
    video: str | None = None
    """Film the first and the last round's first episode: an .mp4, or a .png for a strip of
    pictures."""
    seed: int = 0
    """Seed of the actions' noise and of the environment."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("episodes", 1), ("watch", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} must be at least {least}, got {value}")
        if self.env is not None and (self.task is not None or self.goal is not None):
            raise UserError("--env is a task of its own; leave out --task and --goal")
        if self.output is not None and Path(self.output).suffix != ".pt":
            raise UserError(f"--output must end in .pt, got {self.output}")


def main(arguments: list[str]) -> int:
    """Adapt to one task."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl adapt")
    import torch

    from meta_rl.core.seeding import Streams
    from meta_rl.deployment import policy_file as adapted
    from meta_rl.deployment import task_choice as targets
    from meta_rl.deployment.rounds import OnlineAdaptation, Round
    from meta_rl.reports.film import Take, check_ending, filming, playable, write_film
    from meta_rl.rollouts.collector import RolloutCollector, last_action_and_reward
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import load_trained

    if given.video:
        check_ending(Path(given.video))
    folder = RunFolder(Path(given.run))
    trained = load_trained(folder, given.checkpoint)
    agent, experiment = trained.agent, trained.experiment
    spec, device = trained.distribution.spec, trained.device
    if given.env is not None:
        target = targets.environment(given.env, spec)
    else:
        target = targets.family_task(trained.distribution, given.task, given.goal, given.split)
        if target.distribution is not trained.distribution:
            print(f"{given.task} is no {given.split} task of this run; it is from beyond them")
    distribution = playable(target.distribution)
    default = folder.adapted / f"{target.file_name}.pt"
    path = Path(given.output) if given.output else default
    log = Log(path.with_suffix(".jsonl"), target.label)
    episodes, rounds = budget(given, trained)
    with closing(distribution.make_env(device, workers=1)) as env:
        filmed = filming(env, distribution) if given.video else None
        streams = Streams(given.seed, device, purpose="adapt")
        collector = RolloutCollector(distribution.spec, filmed or env, device)
        takes: list[Take] = []

        def tell(report: "Report") -> None:
            log.tell(report)
            if filmed is not None and isinstance(report, Round):
                # the first round and the last
                takes[1:] = [Take(report.learned_from, tuple(filmed.moments))]

        known = OnlineAdaptation(
            collector,
            agent,
            target.tasks,
            streams,
            episodes,
            rounds,
            given.until_stable,
            given.watch,
            tell,
        ).run()
    program = adapted.save(
        path,
        agent,
        experiment.agent_name,
        experiment.agent,
        known.context,
        last_action_and_reward(known.remembered, spec, torch.Size((1, 1)), device),
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
    if given.video:
        film_path = write_film(takes, Path(given.video), f"{experiment.name}, {target.label}")
        print(f"film: {film_path}")
    print(f"log: {log.path}")
    print(f"program: {program}")
    print(f"adapted policy: {path}")
    return 0


def budget(given: Arguments, trained: "TrainedAgent") -> tuple[int, int]:
    """Return episodes a round, and rounds; say if the agent was trained for fewer."""
    agent = trained.agent
    shared = agent.copies_share_experience
    trained_steps = max(1, len(agent.phases) - 1)
    episodes = given.episodes or trained.adaptation_episodes
    rounds = given.rounds or (LIMIT_UNTIL_STABLE if given.until_stable else 1)
    steps, unit = (rounds, "rounds") if shared else (rounds * episodes, "episodes")
    if steps > trained_steps:
        most = "up to " if given.until_stable else ""
        print(
            f"note: adapting for {most}{steps} {unit}, beyond the {trained_steps} that the agent "
            f"was trained for"
        )
    return episodes, rounds


class Log:
    """Prints rounds and events as they happen, and writes them as lines of JSON."""

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self._label = label
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error}; choose another --output") from error

    def tell(self, report: "Report") -> None:
        """Tell of a round or an event."""
        from meta_rl.deployment.rounds import Round

        row = asdict(report)
        if isinstance(report, Round):
            row["return"] = report.mean_return
            print(f"{self._label}  {describe(report)}", flush=True)
        else:
            print(f"{self._label}  {report.event}: {report.detail}", flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def describe(result: "Round") -> str:
    """Return a round as one line."""
    told = [f"return {result.mean_return:.2f}"]
    if result.success is not None:
        told.append(f"success {result.success:.2f}")
    if result.kl is not None:
        told.append(f"KL {result.kl:.3g}")
    learned = f"having learned from {result.learned_from} episodes"
    doing = "adapting" if result.doing == "adapt" else "executing"
    return f"round {result.number}, {doing}, {learned}: {', '.join(told)} ({len(result.returns)})"
