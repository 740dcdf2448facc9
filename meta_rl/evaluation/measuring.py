"""Evaluation that cannot flatter: every (task, goal, copy) counts, and stage 0 comes first."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from meta_rl.core.episodes import episode_success, episode_sums
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent, TaskDistribution, TaskEnv
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import Phase, Rollout, Tasks, all_finite
from meta_rl.evaluation.partial import Cells
from meta_rl.evaluation.protocol import (
    choose_tasks,
    make_protocol,
    measured_episodes,
    stage_episodes,
)
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.collector import RolloutWorker

ROLLOUT_BYTES = 64_000_000
"""How large the rollout of tasks played together may become; larger ones are hardly faster."""


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
