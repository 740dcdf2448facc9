"""Evaluation that cannot flatter: every (task, goal, copy) counts, and stage 0 comes first."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.episodes import episode_scores
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Collector, MetaAgent, TaskDistribution
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import Phase, Score, Tasks
from meta_rl.evaluation.life_plan import plan_lives
from meta_rl.evaluation.lives import live
from meta_rl.evaluation.partial import Cells
from meta_rl.evaluation.protocol import (
    choose_tasks,
    make_protocol,
    measured_episodes,
    stage_episodes,
)
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.adaptation import Adaptation, copies_have_contexts
from meta_rl.rollouts.footprint import check_memory, step_bytes

ROLLOUT_BYTES = 64_000_000
"""How large the rollout of tasks played together may become; larger ones are hardly faster."""
CONTEXT_BYTES = 512_000_000
"""How large the contexts of tasks played together may become; a rollout copies them once."""


def tasks_that_fit(
    agent: MetaAgent,
    distribution: TaskDistribution,
    collector: Collector,
    copies: int,
    episodes: int | None = None,
) -> int:
    """Return how many tasks of so many copies to play together, for memory's and speed's sake.

    Args:
        episodes: That each copy plays at once; without it, those of the agent's longest phase.
    """
    spec = distribution.spec
    episodes = episodes or max(phase.episodes for phase in agent.phases)
    size = step_bytes(spec) * spec.horizon * episodes
    worlds = min(ROLLOUT_BYTES // size, collector.most_worlds or ROLLOUT_BYTES)
    return max(1, worlds // copies)


def contexts_that_fit(agent: MetaAgent, tasks: Tasks, copies: int) -> int:
    """Return of how many tasks to hold at once what the agent knows, for memory's sake."""
    context = pytree.tree_leaves(agent.begin(tasks[:1], copies, training=False))
    size = sum(leaf.nbytes for leaf in context if isinstance(leaf, Tensor))
    return max(1, CONTEXT_BYTES // max(1, size))


def check_evaluation_memory(
    agent: MetaAgent,
    distribution: TaskDistribution,
    device: torch.device,
    config: EvaluationConfig,
    copies: int,
) -> str | None:
    """Refuse an evaluation of which not even one task fits into memory; see `check_memory`."""
    spec = distribution.spec
    episodes = max(phase.episodes for phase in agent.phases)
    learning = {"copies": copies, "episodes": episodes, "horizon": spec.horizon}
    note = check_memory("one task's evaluation", learning, spec, device)
    if config.evaluation_episodes is None or not agent.copies_share_experience:
        return note
    measuring = {"evaluation_episodes": config.evaluation_episodes, "horizon": spec.horizon}
    return note or check_memory("one task's evaluation", measuring, spec, device)


def evaluate(
    agent: MetaAgent,
    distribution: TaskDistribution,
    collector: Collector,
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

    Where tasks change, stages are times since a change instead: see `lives`.

    Args:
        tasks_at_once: Most tasks to play together, which has no effect on the result but the
            rounding of sums; never more than fit.
        unfinished: File of this very evaluation, to go on from where it was interrupted; see
            `Cells`. It is left for the caller to delete once the result is written.
    """
    tasks = choose_tasks(distribution, config.split, config.goals)
    scores = distribution.spec.scores
    plan = plan_lives(agent, distribution, config, copies)
    if plan is None:
        episodes, columns = measured_episodes(agent, config, copies)
        stages, judged_by = stage_episodes(agent, config, copies), scores
        size = tasks_that_fit(agent, distribution, collector, max(copies, columns))
    else:
        (episodes, _), columns = plan.shape, plan.columns
        stages, judged_by = plan.times, plan.judged_by(scores)
        size = tasks_that_fit(agent, distribution, collector, columns, plan.round_episodes)
    cells = Cells(
        [score.name for score in judged_by],
        (episodes, len(stages), len(tasks), columns),
        unfinished,
    )
    missing = cells.missing
    size = min(size, contexts_that_fit(agent, tasks, copies), tasks_at_once or size)
    for start in range(0, len(missing), size):
        rows = missing[start : start + size]
        if plan is None:
            found = _evaluate_chunk(agent, collector, scores, device, config, copies, tasks[rows])
        else:
            found = live(plan, agent, collector, scores, device, config, tasks[rows])
        cells.fill(rows, _finite(found, tasks[rows]))
    assert not cells.missing, "an evaluation must cover every cell"
    return EvalResult(
        names=tasks.names,
        index=tuple(tasks.index.tolist()),
        scores=cells.scores,
        judged_by=judged_by,
        adaptation_episodes=stages,
        protocol=make_protocol(agent, distribution, config, copies),
        env_steps=env_steps,
        meta_iterations=meta_iterations,
        seed=config.seed,
    )


def _evaluate_chunk(
    agent: MetaAgent,
    collector: Collector,
    scores: Sequence[Score],
    device: torch.device,
    config: EvaluationConfig,
    copies: int,
    tasks: Tasks,
) -> dict[str, Float[Tensor, "E S M N"]]:
    """Return the scores of some of the tasks."""
    episodes, columns = measured_episodes(agent, config, copies)

    def streams(stage: int, purpose: str) -> TaskStreams:
        return TaskStreams(config.seed, device, f"evaluation/{stage}/{purpose}")

    adaptation = Adaptation(agent, collector, tasks, copies, streams(0, "learning"))
    by_stage = []
    for stage in range(config.adaptation_steps + 1):
        if stage > 0:
            adaptation.learn()
        found = None
        if config.measures_apart:
            measuring = partial(streams, stage)
            found = _measure_apart(adaptation, scores, config, columns, episodes, measuring)
        if stage < config.adaptation_steps or found is None:
            played = adaptation.play(streams=streams(stage, "learning"))
            found = found or episode_scores(played, scores, adaptation.phase.episodes)
        by_stage.append({name: values[:episodes] for name, values in found.items()})
    return {name: torch.stack([stage[name] for stage in by_stage], dim=1) for name in by_stage[0]}


def _finite(
    result: Mapping[str, Float[Tensor, "E S M N"]], tasks: Tasks
) -> dict[str, NDArray[np.float64]]:
    """Return scores as NumPy's, or say whose are not finite."""
    for name, values in result.items():
        wrong = ~values.isfinite().all(0).all(0).all(-1)
        if wrong.any():
            labels = [task.label for task, bad in zip(tasks, wrong.tolist(), strict=True) if bad]
            raise UserError(
                f"{name} of {', '.join(labels[:5])} is not finite, so the evaluation says "
                f"nothing; look at the simulator"
            )
    return {name: values.cpu().double().numpy() for name, values in result.items()}


def _measure_apart(
    adaptation: Adaptation,
    scores: Sequence[Score],
    config: EvaluationConfig,
    columns: int,
    episodes: int,
    streams: Callable[[str], TaskStreams],
) -> dict[str, Float[Tensor, "E M N"]]:
    """Return the scores of episodes that nothing is learned from."""
    agent, deterministic = adaptation.agent, config.actions == "deterministic"
    if config.evaluation_episodes is None:
        phase = adaptation.phase
        played = adaptation.measure(phase, None, streams("measuring/0"), deterministic)
        return episode_scores(played, scores, phase.episodes)
    shared = agent.copies_share_experience
    # Where each copy has a row of the context, no more can play together than have one.
    most = adaptation.copies if copies_have_contexts(agent, adaptation.tasks) else columns
    rows = []
    # One rollout an episode, lest a memory learns from the one before.
    for number in range(episodes):
        blocks = []
        for block, first in enumerate(range(0, columns, most)):
            purpose = f"measuring/{number}" + (f"/{block}" if first else "")
            played = adaptation.measure(
                Phase(1), most, streams(purpose), deterministic, remembering=not shared
            )
            blocks.append(episode_scores(played, scores, 1))
        rows.append({name: torch.cat([each[name] for each in blocks], dim=2) for name in blocks[0]})
    return {name: torch.cat([each[name] for each in rows])[:, :, :columns] for name in rows[0]}
