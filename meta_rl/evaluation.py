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

from meta_rl.config import EvaluationConfig
from meta_rl.errors import UserError
from meta_rl.protocols import MetaAgent, Split, TaskDistribution, TaskEnv
from meta_rl.returns import episode_sums
from meta_rl.seeding import Streams
from meta_rl.statistics import estimate, mean
from meta_rl.types import Phase, Rollout, Tasks, all_finite
from meta_rl.worker import RolloutWorker

SUCCESS_RULE = "an episode succeeds if any of its steps does"


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
    """Which checkpoint was measured: the newest, or the best by evaluation while training."""

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
            "tasks": len(self.names),
            "cells_per_stage": int(np.prod(self.episode_return.shape) // len(stages)),
            "stages": stages,
        }

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
        """Write `<env_steps>-<split>-<actions>-<fingerprint>.json`, and all cells as npz."""
        kind = f"{self.protocol['split']}-{self.protocol['actions']}"
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
                    checkpoint=summary.get("checkpoint", "latest"),  # older files do not say
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
    tasks = choose_tasks(distribution, config.split, config.goals)
    return {
        "family": distribution.family,
        **distribution.protocol(),
        "split": config.split,
        "tasks": len(tasks),
        "success_rule": SUCCESS_RULE if "success" in distribution.metric_names else None,
        "actions": config.actions,
        "adaptation_episodes": stage_episodes(agent, config, copies)[-1],
        "evaluation_episodes": copies * agent.phases[0].episodes,
    }


def stage_episodes(agent: MetaAgent, config: EvaluationConfig, copies: int) -> tuple[int, ...]:
    """Return the episodes of experience that a policy has at each stage."""
    step = agent.phases[0].episodes * (copies if agent.copies_share_experience else 1)
    return tuple(step * stage for stage in range(config.adaptation_steps + 1))


def evaluate(
    agent: MetaAgent,
    distribution: TaskDistribution,
    env: TaskEnv,
    device: torch.device,
    config: EvaluationConfig,
    copies: int,
    tasks_at_once: int,
    env_steps: int,
    meta_iterations: int,
) -> EvalResult:
    """Measure an agent on every task of a split, before, between and after adaptation.

    With sampled actions the episodes that the agent adapts from are also those that measure the
    stage they begin at. With deterministic ones each stage plays episodes of its own, whose
    experience is then forgotten.
    """
    tasks = choose_tasks(distribution, config.split, config.goals)
    worker = RolloutWorker(
        distribution, env, device, Streams(config.seed, device, purpose="evaluation")
    )
    phase = agent.phases[0]
    chunks = [
        _evaluate_chunk(worker, agent, tasks[start : start + tasks_at_once], copies, phase, config)
        for start in range(0, len(tasks), tasks_at_once)
    ]
    episode_return = np.concatenate([returns for returns, _ in chunks], axis=2)
    success = np.concatenate([success for _, success in chunks], axis=2)
    cells = (phase.episodes, config.adaptation_steps + 1, len(tasks), copies)
    assert episode_return.shape == success.shape == cells, "an evaluation must cover every cell"
    if not np.isfinite(episode_return).all():
        wrong = np.flatnonzero(~np.isfinite(episode_return).all((0, 1, 3)))
        labels = [task.label for task in tasks[wrong.tolist()]]
        raise UserError(
            f"rewards of {', '.join(labels[:5])} are not finite, so the evaluation says nothing; "
            f"look at the simulator"
        )
    return EvalResult(
        names=tasks.names,
        index=tuple(tasks.index.tolist()),
        episode_return=episode_return,
        success=success,
        adaptation_episodes=stage_episodes(agent, config, copies),
        protocol=make_protocol(agent, distribution, config, copies),
        env_steps=env_steps,
        meta_iterations=meta_iterations,
    )


def _evaluate_chunk(
    worker: RolloutWorker,
    agent: MetaAgent,
    tasks: Tasks,
    copies: int,
    phase: Phase,
    config: EvaluationConfig,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the (E, S, M, N) returns and successes of some of the tasks."""
    context = agent.begin(tasks, copies)
    returns, successes = [], []
    previous: Rollout | None = None
    deterministic = config.actions == "deterministic"
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
        measured = None
        if deterministic:
            measured, _ = worker.collect(agent, context, tasks, copies, phase, previous, True)
        if measured is None or stage < config.adaptation_steps:
            previous, context = worker.collect(agent, context, tasks, copies, phase, previous)
        measured = measured or previous
        assert measured is not None
        returns.append(episode_sums(measured, measured.reward, phase.episodes))
        successes.append(episode_success(measured, phase.episodes))
    return (
        torch.stack(returns, dim=1).cpu().double().numpy(),
        torch.stack(successes, dim=1).cpu().double().numpy(),
    )


def episode_success(rollout: Rollout, episodes: int) -> Float[torch.Tensor, "E M N"]:
    """Return 1 for each episode with a successful step, NaN where success is not defined."""
    if "success" not in rollout.metrics:
        return torch.full((episodes, *rollout.reward.shape[1:]), torch.nan)
    return (episode_sums(rollout, rollout.metrics["success"], episodes) > 0).float()
