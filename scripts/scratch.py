"""Trains Stable-Baselines3 from scratch on each held-out task: a control without meta-training.

    python scripts/scratch.py CONFIG [--algorithm sac] [--episodes 10 100] [--goals 20]

A new model meets each task by itself, learns from as many episodes as the config's agent adapts
from, and is measured by episodes that it does not learn from. The result lies in a run folder
that `meta-rl compare` reads; its stages are the budgets in `--episodes`.

Where the config does not say `evaluation_episodes`, its agent is measured alike by
`meta-rl evaluate RUN --evaluation-episodes 3`.
"""

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

# isort: split
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from _entry import run_script
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import envs
from meta_rl.core.errors import UserError
from meta_rl.core.outputs import check_folder, write_output
from meta_rl.core.seeding import derive_seed
from meta_rl.core.types import RETURN, SUCCESS, EnvSpec
from meta_rl.evaluation.folder import Evaluations
from meta_rl.evaluation.protocol import choose_tasks, describe_protocol, stage_episodes
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment import strict_yaml
from meta_rl.experiment.building import build_agent, build_distribution, set_threads
from meta_rl.experiment.config import Experiment, load_experiment, plain, to_dict
from meta_rl.runs.folder import RunFolder, describe_environment
from meta_rl.runs.sinks.jsonl import JsonlSink

MEASURED = (RETURN, SUCCESS)


@dataclass(frozen=True)
class Args:
    """Train Stable-Baselines3 from scratch on each task, and measure it as an agent is."""

    config: Annotated[str, tyro.conf.Positional]
    """Config whose tasks to train on: a YAML file, or the name of a config in configs/."""
    algorithm: Literal["ppo", "sac"] = "ppo"
    """Algorithm of Stable-Baselines3, with its own settings."""
    episodes: tuple[int, ...] | None = None
    """Budgets of each task, in episodes of the whole horizon, above 0 and rising. Each is measured,
    and so is 0. Without it, the episodes of the config's agent at each stage of its evaluation."""
    evaluation_episodes: int | None = None
    """Episodes that only measure each budget, at least 1; the model does not learn from them.
    Without it, as in the config, or 3."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Actions while measuring: `sampled` from the policy, or `deterministic`, its mode."""
    split: Literal["train", "validation", "test"] = "test"
    """Split of the tasks: train, validation, or test for held-out tasks."""
    goals: int | None = None
    """Goals to take for each task name, at least 1, in the split's order. Without it, as in the
    config."""
    seed: int = 0
    """Seed of the networks, the noise and the order of learning."""
    threads: int = 0
    """CPU threads of torch; 0 means torch's default."""
    runs: str = "runs"
    """Folder that holds the run folders."""

    def __post_init__(self) -> None:
        budgets = (0, 1) if self.episodes is None else (0, *self.episodes)
        if len(budgets) < 2 or any(after <= before for before, after in pairwise(budgets)):
            raise UserError(f"--episodes must be above 0 and rise, got {self.episodes}")
        if self.evaluation_episodes is not None and self.evaluation_episodes < 1:
            raise UserError(
                f"--evaluation-episodes must be at least 1, got {self.evaluation_episodes}"
            )
        if self.goals is not None and self.goals < 1:
            raise UserError(f"--goals must be at least 1, got {self.goals}")

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{Path(self.config).stem}-sb3_{self.algorithm}-seed{self.seed}"


def make_model(algorithm: str, vec: VecEnv, horizon: int, budget: int, seed: int) -> BaseAlgorithm:
    """Make an untrained model with Stable-Baselines3's settings, and sizes that fit the budget."""
    if algorithm == "sac":
        return SAC("MlpPolicy", vec, buffer_size=budget * horizon, seed=seed, device="cpu")
    # A rollout is one episode, so that exactly the budget is used, and whole minibatches fill it.
    # It normalizes advantages, which one step alone has not; a prime horizon is one minibatch.
    batch = next((size for size in range(64, 1, -1) if horizon % size == 0), horizon)
    return PPO("MlpPolicy", vec, n_steps=horizon, batch_size=batch, seed=seed, device="cpu")


def measure(
    model: BaseAlgorithm, vec: VecEnv, deterministic: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Play one episode in each world; return their returns and successes, NaN if not defined."""
    returns, successes = np.zeros(vec.num_envs), np.full(vec.num_envs, np.nan)
    playing = np.ones(vec.num_envs, dtype=np.bool_)
    obs = vec.reset()
    while playing.any():
        action, _ = model.predict(obs, deterministic=deterministic)  # type: ignore[arg-type]
        obs, reward, done, infos = vec.step(action)
        returns += np.where(playing, reward, 0)
        for world in np.flatnonzero(playing & done):
            successes[world] = infos[world].get("is_success", np.nan)
        playing &= ~done
    return returns, successes


def budgets_of(args: Args, experiment: Experiment[Any, Any], spec: EnvSpec) -> tuple[int, ...]:
    """Return the episodes that a model has learned from whenever it is measured."""
    if args.episodes is not None:
        return (0, *args.episodes)
    agent = build_agent(experiment, spec, torch.device("cpu"))
    return stage_episodes(agent, experiment.evaluation, experiment.evaluation_copies)


def train_and_measure(args: Args) -> tuple[dict[str, Any], EvalResult]:
    """Return the experiment as plain data, and what was measured."""
    experiment = replace(load_experiment(args.config), seed=args.seed, threads=args.threads)
    set_threads(experiment)
    distribution = build_distribution(experiment)
    if others := [score.label for score in distribution.spec.scores if score not in MEASURED]:
        raise UserError(
            f"{experiment.name}'s tasks are judged by {', '.join(others)}, and from scratch only "
            f"returns and successes are measured; take tasks that are judged by those"
        )
    evaluation = experiment.evaluation
    measured = args.evaluation_episodes or evaluation.evaluation_episodes or 3
    config = replace(
        evaluation,
        split=args.split,
        goals=args.goals or evaluation.goals,
        actions=args.actions,
        evaluation_episodes=measured,
    )
    tasks = choose_tasks(distribution, config.split, config.goals)
    budgets, horizon = budgets_of(args, experiment, distribution.spec), distribution.spec.horizon
    family, fields = experiment.envs_name, plain(asdict(experiment.envs))
    shape = (1, len(budgets), len(tasks), measured)
    returns, successes = np.zeros(shape), np.zeros(shape)
    learning = envs.make_sb3(family, tasks=tasks[[0]], workers=1, **fields)
    measuring = envs.make_sb3(family, tasks=tasks[[0] * measured], **fields)
    for m, task in enumerate(tasks):
        learning.set_options({"tasks": tasks[[m]]})
        seed = derive_seed(args.seed, f"scratch/{task.label}") % 2**32
        model = make_model(args.algorithm, learning, horizon, budgets[-1], seed)
        for stage, (before, budget) in enumerate(pairwise((0, *budgets))):
            if budget:
                model.learn((budget - before) * horizon, reset_num_timesteps=False)
            measuring.set_options({"tasks": tasks[[m] * measured]})
            cells = measure(model, measuring, args.actions == "deterministic")
            returns[0, stage, m], successes[0, stage, m] = cells
        told = ", ".join(f"{value:.1f}" for value in returns[0, :, m].mean(-1))
        print(
            f"{task.label}  return after {', '.join(map(str, budgets))} episodes: {told}",
            flush=True,
        )
    learning.close()
    measuring.close()
    result = EvalResult(
        names=tasks.names,
        index=tuple(tasks.index.tolist()),
        scores={"episode_return": returns, "success": successes},
        judged_by=distribution.spec.scores,
        adaptation_episodes=budgets,
        protocol=describe_protocol(distribution, config, budgets[-1], measured),
        env_steps=0,  # none before the tasks themselves
        meta_iterations=0,
    )
    agent = {"name": f"sb3_{args.algorithm}", "episodes": list(budgets[1:])}
    return to_dict(replace(experiment, name=args.name)) | {"agent": agent}, result


def main(args: Args) -> Path:
    """Train, measure, write the run folder and return where it lies."""
    folder = RunFolder(Path(args.runs) / args.name)
    if folder.path.exists():
        raise UserError(f"{folder.path} exists already; choose another --runs, or remove it")
    check_folder(folder.path, "choose another --runs")
    clock = JsonlSink(folder.metrics)
    experiment, result = train_and_measure(args)
    for name, text in (
        ("config.yaml", strict_yaml.write(experiment)),
        ("environment.txt", describe_environment("python scripts/scratch.py")),
    ):
        write_output(text.encode(), folder.path / name, "choose another --runs")
    path = Evaluations(folder.evaluations).save(result)
    clock.log({}, result.env_steps, result.meta_iterations)
    print(f"written to {path}")
    return folder.path


if __name__ == "__main__":
    run_script(main, Args, __doc__)
