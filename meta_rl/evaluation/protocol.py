"""What a number depends on beside the agent: the protocol of an evaluation, and its fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import ALL_TASKS, MetaAgent, Split, TaskDistribution
from meta_rl.core.types import Tasks
from meta_rl.evaluation.life_plan import LEARNING, plan_lives
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.adaptation import phase_at

BEST_IS_CHOSEN_ON = "best_is_chosen_on"
"""Key of a run's protocol: the split that best.pt is chosen on; None if there is no choice."""
SUCCESS_RULE = "an episode succeeds if any of its steps does"


def make_protocol(
    agent: MetaAgent,
    distribution: TaskDistribution,
    config: EvaluationConfig,
    copies: int,
) -> dict[str, Any]:
    """Return all that a number depends on beside the agent: only equals may be compared."""
    plan = plan_lives(agent, distribution, config, copies)
    if plan is not None:
        return _protocol(distribution, config, plan.protocol())
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
    episodes = {
        "adaptation_episodes": adaptation_episodes,
        "evaluation_episodes": evaluation_episodes,
        **({"evaluation_episodes_are_learned_from": False} if apart else {}),
    }
    return _protocol(distribution, config, episodes)


def _protocol(
    distribution: TaskDistribution, config: EvaluationConfig, episodes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the family says of its tasks, and how they are measured.

    Raises:
        UserError: The family's protocol has a key that says how they are measured.
    """
    tasks = {"family": distribution.family, **distribution.protocol()}
    measured = {
        "split": config.split,
        "tasks": len(choose_tasks(distribution, config.split, config.goals)),
        "success_rule": SUCCESS_RULE if "success" in distribution.spec.metrics else None,
        "actions": config.actions,
        **episodes,
    }
    if taken := sorted(tasks.keys() & measured.keys()):
        raise UserError(
            f"the protocol of the family {distribution.family} has {', '.join(taken)}, which "
            f"evaluation says itself; call it otherwise"
        )
    return tasks | measured


def decisive(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a protocol results must share to be compared."""
    other = (BEST_IS_CHOSEN_ON, LEARNING)
    return {key: value for key, value in protocol.items() if key not in other}


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return a short hash of what results of a protocol must share to be compared."""
    return hashlib.sha256(json.dumps(decisive(protocol), sort_keys=True).encode()).hexdigest()[:12]


def benchmark_of(protocol: Mapping[str, Any]) -> str:
    """Return what its tasks are of: the benchmark or task that the family names, or the family."""
    named = " ".join(str(protocol[key]) for key in ("benchmark", "task") if key in protocol)
    return named or str(protocol["family"])


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


def check_choosing(distribution: TaskDistribution, split: Split) -> None:
    """Refuse a validation split that shares tasks with the test split: choosing on it flatters."""
    if split == "validation":
        held_out = {task.label for task in distribution.tasks("test")}
        shared = [task.label for task in distribution.tasks(split) if task.label in held_out]
        tasks = {"family": distribution.family, **distribution.protocol()}
        if shared and ALL_TASKS in tasks:
            raise UserError(
                f"every split of {benchmark_of(tasks)} holds all of its tasks, so there are none "
                f"to choose on: choose checkpoints with --evaluation.choose-on train; a sweep "
                f"cannot choose"
            )
        if shared:
            raise UserError(
                f"the validation and test splits of {distribution.family} share {len(shared)} "
                f"tasks ({', '.join(shared[:3])}, ...): have tasks('validation') return others, or "
                f"choose checkpoints with --evaluation.choose-on train"
            )


def chosen_on_measured(protocol: Mapping[str, Any], every: int, choose_on: str) -> bool:
    """Return whether a run's best checkpoint was chosen on the tasks that are measured.

    Args:
        protocol: Of the evaluation.
        every: The run's `evaluation.every`; 0 chooses no checkpoint.
    """
    return every > 0 and (ALL_TASKS in protocol or choose_on == protocol["split"])


def stage_episodes(agent: MetaAgent, config: EvaluationConfig, copies: int) -> tuple[int, ...]:
    """Return the episodes of experience that a policy has at each stage."""
    each = copies if agent.copies_share_experience else 1
    learned = [each * phase_at(agent, k).episodes for k in range(config.adaptation_steps)]
    return tuple(accumulate(learned, initial=0))


def measured_episodes(agent: MetaAgent, config: EvaluationConfig, copies: int) -> tuple[int, int]:
    """Return (E, N): the episodes that measure a task at each stage, and in how many copies.

    Without episodes of their own, all stages are measured by as many of those that the agent plays
    as the shortest phase has, so that they have one denominator. With `evaluation_episodes`, copies
    that learn together have one policy, whose episodes are played side by side; otherwise each
    copy's policy plays as many, one after the other.
    """
    if config.evaluation_episodes is None:
        stages = range(config.adaptation_steps + 1)
        return min(phase_at(agent, k).episodes for k in stages), copies
    if agent.copies_share_experience:
        return 1, config.evaluation_episodes
    return config.evaluation_episodes, copies
