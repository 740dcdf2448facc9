"""Measuring agents on tasks that change: what they earn at each time since the last change.

Every task is followed through a life. It changes regularly, whatever changes come at in training,
so that every cell is filled and its denominator is known before the first step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meta_rl.core.episodes import episode_scores
from meta_rl.core.protocols import Collector, MetaAgent
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import RETURN, Phase, Rollout, Score, Tasks
from meta_rl.evaluation.alarm import alarm_limit
from meta_rl.evaluation.life_plan import SINCE_CHANGE, LifePlan
from meta_rl.evaluation.result import EvalResult
from meta_rl.evaluation.statistics import Estimate, estimate, mean
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.adaptation import Adaptation, rollout_of


def live(
    plan: LifePlan,
    agent: MetaAgent,
    collector: Collector,
    scores: Sequence[Score],
    device: torch.device,
    config: EvaluationConfig,
    tasks: Tasks,
) -> dict[str, Float[Tensor, "E S M N"]]:
    """Follow some tasks through their lives; return the scores at each time since a change."""

    def streams(number: int | str) -> TaskStreams:
        return TaskStreams(config.seed, device, f"evaluation/life/{number}")

    shared = agent.copies_share_experience
    life = plan.changes.begin(tasks, plan.columns, streams("changes").env_seed(), shared, False)
    adaptation = Adaptation(agent, collector, tasks, plan.columns, streams(0), life=life)
    learner = (Relearner if shared else Rememberer)(adaptation, config)
    record = Record(plan, scores, (len(tasks), plan.columns))
    number = 0
    while not record.complete:
        episodes = plan.round_episodes or adaptation.phase.episodes
        episodes = min(episodes, record.episodes_left or episodes)
        played = rollout_of(adaptation.play(Phase(episodes), streams(number)))
        record.add(played, episodes)
        learner.learn(played, episodes)
        adaptation.experience = ()  # nobody asks for it again, and lives are long
        number += 1
    return {name: plan.pooled(values) for name, values in record.values.items()}


@dataclass(frozen=True)
class Recovery:
    """What a change costs, and for how long."""

    score: Score
    drop: Estimate
    """How much worse the first stage after a change is than the last one."""
    after: int
    """Time since the change at which all but a tenth of the drop is made good."""
    unit: str

    @property
    def told(self) -> str:
        """The same as a sentence."""
        drop = self.drop
        ends = "" if drop.low is None else f" [{drop.low:.2f}, {drop.high:.2f}]"
        cost = f"a change costs {drop.value:.2f}{ends} of {self.score.label} at first"
        if drop.low is None or drop.low <= 0:
            return f"{cost}: nothing that is certain"
        return f"{cost}; nine tenths of it are made good after {self.after} {self.unit}"


def recovery(result: EvalResult) -> Recovery | None:
    """Return what a change costs by the score that is shown first.

    None if tasks stay, and within episodes: what a step brings there depends on its place in the
    episode, too, which no life tells from the time since a change.
    """
    if result.protocol.get(SINCE_CHANGE) != "episodes" or len(result.adaptation_episodes) < 2:
        return None
    score = result.shown[0]
    by_task = result.scores[score.name].mean((0, 3)) * (1 if score.higher_is_better else -1)
    curve = by_task.mean(1)
    drop = estimate(mean, [(by_task[-1] - by_task[0])[None]], result.strata)
    recovered = np.flatnonzero(curve >= curve[-1] - 0.1 * max(drop.value, 0.0))[0]
    after = result.adaptation_episodes[int(recovered)]
    return Recovery(score, drop, after, result.protocol[SINCE_CHANGE])


class Rememberer:
    """Learns in an adaptation whose memory goes on by itself; without steps, it forgets."""

    def __init__(self, adaptation: Adaptation, config: EvaluationConfig) -> None:
        self.adaptation, self.learns = adaptation, config.adaptation_steps > 0

    def learn(self, played: Rollout, episodes: int) -> None:
        """Go on from a round, or forget it."""
        if self.learns:
            self.adaptation.learn()
        else:
            self.adaptation.forget(torch.ones(len(self.adaptation.tasks), dtype=torch.bool))


class Relearner:
    """Learns by gradients in an adaptation: each task from its own rounds, at its own times.

    After so many rounds to learn from it only plays, until the return drops below `alarm_limit`;
    then it begins anew with what meta-training made. (`meta-rl adapt --watch` also lets the adapted
    policy play a round then, and goes on from the better one.)
    """

    def __init__(self, adaptation: Adaptation, config: EvaluationConfig) -> None:
        self.adaptation, self.config = adaptation, config
        count = len(adaptation.tasks)
        self.learned: Int[Tensor, M] = torch.zeros(count, dtype=torch.long)
        """Rounds that each task has learned from since it began anew."""
        self.returns: list[list[float]] = [[] for _ in range(count)]
        """Returns of each task since it only plays."""

    def learn(self, played: Rollout, episodes: int) -> None:
        """Learn from a round what is to be learned of it, and forget where the task has changed."""
        if self.config.adaptation_steps == 0:
            return
        if self.config.relearn == "always":
            self.adaptation.learn()
            return
        learning = self.learned < self.config.adaptation_steps
        if learning.any():
            self.adaptation.learn(learning)
        self.learned += learning.long()
        dropped = torch.zeros_like(learning)
        found = episode_scores(played, [RETURN], episodes)[RETURN.name][..., 0].T.cpu()
        for row in (~learning).nonzero().flatten().tolist():
            returns = found[row].double().tolist()
            dropped[row] = float(np.mean(returns)) < alarm_limit(self.returns[row], episodes)
            self.returns[row] = [] if dropped[row] else [*self.returns[row], *returns]
        if dropped.any():
            self.adaptation.forget(dropped)
            self.learned[dropped] = 0


class Record:
    """What happened in the lives so far: a number for each episode, or for each step.

    Args:
        worlds: (M, N).
    """

    def __init__(self, plan: LifePlan, scores: Sequence[Score], worlds: tuple[int, int]) -> None:
        self._plan, self._scores = plan, scores
        self._total = plan.between * (plan.followed + 1)
        self._lived: Int[Tensor, "M N"] = torch.zeros(worlds, dtype=torch.long)
        self.values: dict[str, Float[Tensor, "L M N"]] = {
            score.name: torch.full((self._total, *worlds), torch.nan, dtype=torch.float64)
            for score in plan.judged_by(scores)
        }

    @property
    def complete(self) -> bool:
        """Whether all lives are as long as planned."""
        return int(self._lived.min()) >= self._total

    @property
    def episodes_left(self) -> int | None:
        """Episodes until they are; None if steps are counted."""
        return None if self._plan.in_steps else self._total - int(self._lived.min())

    def add(self, played: Rollout, episodes: int) -> None:
        """Add a round of so many episodes."""
        if self._plan.in_steps:
            self._add_steps(played)
            return
        start = int(self._lived.min())
        for name, values in episode_scores(played, self._scores, episodes).items():
            self.values[name][start : start + episodes] = values.cpu().double()
        self._lived += episodes

    def _add_steps(self, played: Rollout) -> None:
        valid = played.valid.cpu()
        when = self._lived + valid.long().cumsum(0) - 1
        step, row, copy = (valid & (when < self._total)).nonzero(as_tuple=True)
        where = when[step, row, copy], row, copy
        for score in self._plan.judged_by(self._scores):
            reward = score.quantity == "reward"
            happened = played.reward if reward else played.metrics[score.quantity]
            self.values[score.name][where] = happened.cpu().double()[step, row, copy]
        self._lived += valid.sum(0)
