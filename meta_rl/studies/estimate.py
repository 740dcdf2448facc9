"""How long trainings will take, from measured env steps per second."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent, Split, TaskDistribution
from meta_rl.evaluation.life_plan import plan_lives
from meta_rl.evaluation.protocol import choose_tasks, measured_episodes
from meta_rl.experiment.config import Experiment
from meta_rl.rollouts.adaptation import phase_at
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.metrics import read_metrics
from meta_rl.training.collecting import iteration_factors
from meta_rl.training.rejected import Rejected
from meta_rl.training.temporary import temporary_trainer

PROBE_ITERATIONS = 2
"""Measured meta-iterations of a probe, after one that compiles and warms up."""


@dataclass(frozen=True)
class Speed:
    """Env steps of training per second, of one training beside others."""

    steps_per_s: float
    source: str
    """What was measured."""
    with_evaluations: bool
    """Whether evaluations are in the time already."""


def training_steps(
    experiment: Experiment[Any, Any], agent: MetaAgent, distribution: TaskDistribution
) -> int:
    """Return the env steps of all meta-iterations, if no episode ends early."""
    factors = iteration_factors(experiment, agent, distribution)
    return experiment.meta_iterations * math.prod(factors.values())


def evaluation_steps(
    experiment: Experiment[Any, Any], agent: MetaAgent, distribution: TaskDistribution
) -> int:
    """Return the env steps of all evaluations of a run, if no episode ends early."""
    config, copies = experiment.evaluation, experiment.evaluation_copies
    horizon = distribution.spec.horizon
    stages = config.adaptation_steps + 1
    # Where stages are measured apart, the last one plays nothing to learn from.
    played = range(stages - 1 if config.measures_apart else stages)
    episodes = copies * sum(phase_at(agent, stage).episodes for stage in played)
    if config.measures_apart:
        each, columns = measured_episodes(agent, config, copies)
        episodes += each * columns * stages
    steps = episodes * horizon
    if (plan := plan_lives(agent, distribution, config, copies)) is not None:
        steps = plan.columns * plan.steps(horizon)

    def once(split: Split) -> int:
        return len(choose_tasks(distribution, split, config.goals)) * steps

    watched = math.ceil(experiment.meta_iterations / config.every) if config.every else 0
    final = 0 if watched and config.choose_on == "test" else once("test")
    return final + watched * once(config.choose_on)


def recorded_speed(runs: Iterable[Path]) -> Speed | None:
    """Return the speed of runs that have trained already; none if none has."""
    last = [rows[-1] for path in runs if (rows := read_metrics(RunFolder(path).metrics).rows)]
    seconds = sum(row["wall_time_s"] for row in last)
    if not seconds:
        return None
    steps = sum(row["env_steps"] for row in last)
    count = f"{len(last)} run{'s' * (len(last) > 1)} of it"
    return Speed(steps / seconds, f"{count}, evaluations included", True)


def probed_speed(experiment: Experiment[Any, Any]) -> Speed:
    """Run a few meta-iterations in a temporary folder and return their speed."""
    alone = replace(experiment, evaluation=replace(experiment.evaluation, every=0))
    with temporary_trainer(alone) as trainer:
        try:
            trainer.update(trainer.collect())
            steps, began_s = trainer.collector.env_steps, time.perf_counter()
            for _ in range(PROBE_ITERATIONS):
                trainer.update(trainer.collect())
        except Rejected as problem:
            raise UserError(f"the probe cannot learn with the first setting: {problem}") from None
        made = trainer.collector.env_steps - steps
        seconds = time.perf_counter() - began_s
    return Speed(made / seconds, f"a probe of {PROBE_ITERATIONS} meta-iterations", False)


def told_duration(seconds: Sequence[float], processes: int) -> str:
    """Return how long trainings of so many seconds take together, as text."""
    longest = max([*seconds, 0.0])
    whole = max(longest, sum(seconds) / processes)
    return str(timedelta(seconds=round(whole)))
