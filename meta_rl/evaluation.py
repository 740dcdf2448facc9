"""Evaluation that cannot flatter: every (task, goal, copy) counts, and stage 0 comes first."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from meta_rl.cells import Cells
from meta_rl.config import EvaluationConfig
from meta_rl.errors import UserError
from meta_rl.protocols import MetaAgent, Split, TaskDistribution, TaskEnv
from meta_rl.returns import episode_sums
from meta_rl.seeding import TaskStreams
from meta_rl.statistics import estimate, mean
from meta_rl.types import Phase, Rollout, Tasks, all_finite
from meta_rl.worker import RolloutWorker

SUCCESS_RULE = "an episode succeeds if any of its steps does"
ROLLOUT_BYTES = 64_000_000
"""How large the rollout of tasks played together may become; larger ones are hardly faster."""


@dataclass(frozen=True)
class EvalResult:
    """What an agent achieved on M tasks at each of S stages of adaptation, 0 before any.

    `episode_return` and `success` hold all E episodes of all N copies: the denominators are fixed
    before the first step. `success` is NaN throughout where the family has no such metric.
    """

    names: tuple[str, ...]
    index: tuple[int, ...]
    episode_return: Float[NDArray[np.float64], "E S M N"]
    success: Float[NDArray[np.float64], "E S M N"]
    adaptation_episodes: tuple[int, ...]
    """Episodes of its task that a policy had learned from at each stage."""
    protocol: Mapping[str, Any]
    env_steps: int
    """Environment steps of training that the agent has had."""
    meta_iterations: int
    checkpoint: str = "latest"
    """Which checkpoint was measured: the newest, the best by evaluation while training, a file."""
    seed: int = 0
    """Seed of the actions' noise."""

    @property
    def fingerprint(self) -> str:
        """Short hash of all that a comparable result must share."""
        return fingerprint(self.protocol)

    def summary(self) -> dict[str, Any]:
        """Return means and intervals for each stage, in all and for each task name."""
        stages = []
        for stage, episodes in enumerate(self.adaptation_episodes):
            row: dict[str, Any] = {"stage": stage, "adaptation_episodes": episodes}
            for quantity in ("episode_return", "success"):
                if quantity == "success" and self.protocol["success_rule"] is None:
                    continue
                cells = getattr(self, quantity)[:, stage]
                by_task = cells.mean((0, 2))
                found = estimate(mean, [by_task[None]], self.names)
                row[quantity] = {"mean": found.value, "low": found.low, "high": found.high}
                row[f"{quantity}_by_name"] = {
                    name: float(by_task[[other == name for other in self.names]].mean())
                    for name in dict.fromkeys(self.names)
                }
            stages.append(row)
        return {
            "fingerprint": self.fingerprint,
            "protocol": dict(self.protocol),
            "env_steps": self.env_steps,
            "meta_iterations": self.meta_iterations,
            "checkpoint": self.checkpoint,
            "seed": self.seed,
            "tasks": len(self.names),
            "cells_per_stage": int(np.prod(self.episode_return.shape) // len(stages)),
            "stages": stages,
            "by_task": self.by_task(),
        }

    def by_task(self) -> list[dict[str, Any]]:
        """Return one row for each task name and goal: its means at every stage."""
        measures = {"episode_return": self.episode_return, "success": self.success}
        if self.protocol["success_rule"] is None:
            del measures["success"]
        means = {quantity: cells.mean((0, 3)).T for quantity, cells in measures.items()}
        return [
            {"task": name, "goal": goal}
            | {quantity: by_stage[m].tolist() for quantity, by_stage in means.items()}
            for m, (name, goal) in enumerate(zip(self.names, self.index, strict=True))
        ]

    def metrics(self) -> dict[str, float]:
        """Return the stages' means under the names that logs use."""
        logged = {}
        for row in self.summary()["stages"]:
            for quantity, name in (("episode_return", "return"), ("success", "success")):
                if quantity in row:
                    logged[f"evaluation/{name}/stage_{row['stage']}"] = row[quantity]["mean"]
        return logged

    def score(self) -> tuple[float, float]:
        """Return what `best` means: success after all adaptation, then return."""
        success, episode_return = self.success[:, -1].mean(), self.episode_return[:, -1].mean()
        # NaN would compare as neither better nor worse, and so stay the best for ever.
        return (
            float(np.nan_to_num(success, nan=0.0)),
            float(np.nan_to_num(episode_return, nan=-np.inf)),
        )

    def save(self, folder: Path) -> Path:
        """Write `<env_steps>-<split>-<actions>-seed<N>-<fingerprint>.json`, and cells as npz."""
        kind = f"{self.protocol['split']}-{self.protocol['actions']}-seed{self.seed}"
        stem = f"{self.env_steps}-{kind}-{self.fingerprint}"
        path = folder / f"{stem}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(
                folder / f"{stem}.npz",
                names=np.array(self.names),
                index=np.array(self.index),
                episode_return=self.episode_return,
                success=self.success,
                adaptation_episodes=np.array(self.adaptation_episodes),
            )
            path.write_text(json.dumps(self.summary(), indent=2, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(f"cannot write the evaluation {path}: {error}") from error
        return path

    @classmethod
    def load(cls, path: Path) -> "EvalResult":
        """Read what `save` wrote: the JSON file at `path`, and the npz beside it."""
        try:
            summary = json.loads(path.read_text())
            with path.with_suffix(".npz").open("rb") as file, np.load(file) as cells:
                return cls(
                    names=tuple(cells["names"].tolist()),
                    index=tuple(cells["index"].tolist()),
                    episode_return=cells["episode_return"],
                    success=cells["success"],
                    adaptation_episodes=tuple(cells["adaptation_episodes"].tolist()),
                    protocol=summary["protocol"],
                    env_steps=summary["env_steps"],
                    meta_iterations=summary["meta_iterations"],
                    checkpoint=summary.get("checkpoint", "latest"),  # older files say neither
                    seed=summary.get("seed", 0),
                )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"cannot read the evaluation {path}: {type(error).__name__}: {error}; make it again"
            ) from error


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return a short hash of a protocol."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def choose_tasks(distribution: TaskDistribution, split: Split, goals: int | None) -> Tasks:
    """Return a split's tasks, at most the first `goals` of each name."""
    tasks = distribution.tasks(split)
    if goals is None:
        return tasks
    seen: dict[str, int] = {}
    rows = []
    for row, name in enumerate(tasks.names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= goals:
            rows.append(row)
    return tasks[rows]


def make_protocol(
    agent: MetaAgent,
    distribution: TaskDistribution,
    config: EvaluationConfig,
    copies: int,
) -> dict[str, Any]:
    """Return all that a number depends on beside the agent: only equals may be compared."""
    return describe_protocol(
        distribution,
        config,
        stage_episodes(agent, config, copies)[-1],
        int(np.prod(measured_episodes(agent, config, copies))),
    )


def describe_protocol(
    distribution: TaskDistribution,
    config: EvaluationConfig,
    adaptation_episodes: int,
    evaluation_episodes: int,
) -> dict[str, Any]:
    """Return the protocol of so many episodes a task, before the last stage and at each."""
    apart = config.evaluation_episodes is not None
    return {
        "family": distribution.family,
        **distribution.protocol(),
        "split": config.split,
        "tasks": len(choose_tasks(distribution, config.split, config.goals)),
        "success_rule": SUCCESS_RULE if "success" in distribution.metric_names else None,
        "actions": config.actions,
        "adaptation_episodes": adaptation_episodes,
        "evaluation_episodes": evaluation_episodes,
        **({"evaluation_episodes_are_learned_from": False} if apart else {}),
    }


def stage_episodes(agent: MetaAgent, config: EvaluationConfig, copies: int) -> tuple[int, ...]:
    """Return the episodes of experience that a policy has at each stage."""
    step = agent.phases[0].episodes * (copies if agent.copies_share_experience else 1)
    return tuple(step * stage for stage in range(config.adaptation_steps + 1))


def measured_episodes(agent: MetaAgent, config: EvaluationConfig, copies: int) -> tuple[int, int]:
    """Return (E, N): the episodes that measure a task at each stage, and in how many copies.

    Copies that learn together have one policy, whose evaluation episodes are played side by side;
    otherwise each copy's policy plays as many, one after the other.
    """
    if config.evaluation_episodes is None:
        return agent.phases[0].episodes, copies
    if agent.copies_share_experience:
        return 1, config.evaluation_episodes
    return config.evaluation_episodes, copies


def tasks_that_fit(
    agent: MetaAgent, distribution: TaskDistribution, env: TaskEnv, copies: int
) -> int:
    """Return how many tasks of so many copies to play together, for memory's and speed's sake."""
    spec = distribution.spec
    # observation and action twice, reward twice, log-probability, marks and metrics
    numbers = 2 * (spec.observation_size + spec.action_size) + 4 + len(distribution.metric_names)
    size = 4 * numbers * spec.horizon * agent.phases[0].episodes
    worlds = min(ROLLOUT_BYTES // size, getattr(env, "most_worlds", ROLLOUT_BYTES))
    return max(1, worlds // copies)


def evaluate(
    agent: MetaAgent,
    distribution: TaskDistribution,
    env: TaskEnv,
    device: torch.device,
    config: EvaluationConfig,
    copies: int,
    tasks_at_once: int | None,
    env_steps: int,
    meta_iterations: int,
    unfinished: Path | None = None,
) -> EvalResult:
    """Measure an agent on every task of a split, before, between and after adaptation.

    With sampled actions the episodes that the agent adapts from are also those that measure the
    stage they begin at. With deterministic ones, or with `config.evaluation_episodes`, each stage
    plays episodes of its own, whose experience is then forgotten.

    Args:
        tasks_at_once: Tasks to play together, which has no effect on the result but the rounding
            of sums; none takes as many as fit.
        unfinished: File of this very evaluation, to go on from where it was interrupted; see
            `Cells`. It is left for the caller to delete once the result is written.
    """
    tasks = choose_tasks(distribution, config.split, config.goals)
    episodes, columns = measured_episodes(agent, config, copies)
    cells = Cells((episodes, config.adaptation_steps + 1, len(tasks), columns), unfinished)
    missing = cells.missing
    size = tasks_at_once or tasks_that_fit(agent, distribution, env, max(copies, columns))
    for start in range(0, len(missing), size):
        rows = missing[start : start + size]
        cells.fill(
            rows, *_evaluate_chunk(agent, distribution, env, device, config, copies, tasks[rows])
        )
    assert not cells.missing, "an evaluation must cover every cell"
    return EvalResult(
        names=tasks.names,
        index=tuple(tasks.index.tolist()),
        episode_return=cells.episode_return,
        success=cells.success,
        adaptation_episodes=stage_episodes(agent, config, copies),
        protocol=make_protocol(agent, distribution, config, copies),
        env_steps=env_steps,
        meta_iterations=meta_iterations,
        seed=config.seed,
    )


def _evaluate_chunk(
    agent: MetaAgent,
    distribution: TaskDistribution,
    env: TaskEnv,
    device: torch.device,
    config: EvaluationConfig,
    copies: int,
    tasks: Tasks,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the (E, S, M, N) returns and successes of some of the tasks."""
    phase = agent.phases[0]
    deterministic = config.actions == "deterministic"
    episodes, columns = measured_episodes(agent, config, copies)
    apart = config.evaluation_episodes is not None
    if apart:  # one rollout an episode, lest a memory learns from the one before
        own_rollouts, own_phase = episodes, Phase(1)
    else:
        own_rollouts, own_phase = int(deterministic), phase

    def worker(purpose: str) -> RolloutWorker:
        streams = TaskStreams(config.seed, device, f"evaluation/{purpose}")
        return RolloutWorker(distribution, env, device, streams)

    context = agent.begin(tasks, copies)
    returns, successes = [], []
    previous: Rollout | None = None
    for stage in range(config.adaptation_steps + 1):
        if stage > 0:
            assert previous is not None
            context = agent.adapt(context, previous)
            if not all_finite(context):
                raise UserError(
                    f"adaptation {stage} gave parameters that are not finite for some of the tasks "
                    f"{tasks[0:1].names[0]} to {tasks[-1:].names[0]}; a smaller agent.inner_lr, or "
                    f"agent.later_inner_lr, may help"
                )
        before = None if apart and agent.copies_share_experience else previous
        measured = [
            worker(f"{stage}/measuring/{number}").collect(
                agent, context, tasks, columns, own_phase, before, deterministic
            )[0]
            for number in range(own_rollouts)
        ]
        if stage < config.adaptation_steps or not measured:
            previous, context = worker(f"{stage}/learning").collect(
                agent, context, tasks, copies, phase, previous
            )
            measured = measured or [previous]
        count = own_phase.episodes
        returns.append(torch.cat([episode_sums(each, each.reward, count) for each in measured]))
        successes.append(torch.cat([episode_success(each, count) for each in measured]))
    episode_return = torch.stack(returns, dim=1)
    wrong = ~episode_return.isfinite().all(0).all(0).all(-1)
    if wrong.any():
        labels = [task.label for task, bad in zip(tasks, wrong.tolist(), strict=True) if bad]
        raise UserError(
            f"rewards of {', '.join(labels[:5])} are not finite, so the evaluation says nothing; "
            f"look at the simulator"
        )
    return (
        episode_return.cpu().double().numpy(),
        torch.stack(successes, dim=1).cpu().double().numpy(),
    )


def episode_success(rollout: Rollout, episodes: int) -> Float[torch.Tensor, "E M N"]:
    """Return 1 for each episode with a successful step, NaN where success is not defined."""
    if "success" not in rollout.metrics:
        return torch.full((episodes, *rollout.reward.shape[1:]), torch.nan)
    return (episode_sums(rollout, rollout.metrics["success"], episodes) > 0).float()
