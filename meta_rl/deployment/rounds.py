"""Adaptation while acting: play, learn, play again; notice when the task has changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from meta_rl.core.episodes import episode_scores, episode_sums
from meta_rl.core.errors import UserError
from meta_rl.core.lives import Life
from meta_rl.core.protocols import Collector, MetaAgent, Noises, TellsDistribution
from meta_rl.core.types import SUCCESS, Context, Phase, Rollout, Task, Tasks, all_finite
from meta_rl.evaluation.alarm import alarm_limit
from meta_rl.rollouts.adaptation import Adaptation, rollout_of

PATIENCE = 3
"""Rounds without improvement after which adaptation is stable."""


@dataclass(frozen=True)
class Round:
    """What one round showed."""

    number: int
    doing: Literal["adapt", "execute"]
    learned_from: int
    """Episodes of the task that its policy had learned from."""
    returns: tuple[float, ...]
    """One for each episode."""
    success: float | None
    """Share of successful episodes; None where success is not defined."""
    kl: float | None
    """E[KL(π ‖ π′)] in nats in the round's own states, π being its policy and π′ that of the
    round before; None for the first round, and for agents that do not tell their distribution."""
    env_steps: int

    @property
    def mean_return(self) -> float:
        """Mean over the episodes."""
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class Event:
    """What a round led to."""

    number: int
    event: Literal["stable", "not stable", "dropped", "starts again", "changed"]
    detail: str


Report: TypeAlias = Round | Event


@dataclass(frozen=True)
class Played:
    """A round, what was known when it began, and the adaptation that can learn from it."""

    known: Adaptation
    round: Round
    adaptation: Adaptation


class OnlineAdaptation:
    """Lets one world's policy adapt while it acts.

    Args:
        tasks: The one task.
        streams: Where chance comes from.
        episodes: Episodes to play in each round of adaptation.
        rounds: Rounds of adaptation; the most of them if it may be stable before.
        until_stable: Adapt until stable (see `improves`), and keep what played the best round.
        watch: Rounds to execute after the one that measures what adaptation gave.
        tell: Called with every round and event as it happens.
        keep: Called with what adaptation gave, each time before it is executed.
    """

    def __init__(
        self,
        collector: Collector,
        agent: MetaAgent,
        tasks: Tasks,
        streams: Noises,
        episodes: int,
        rounds: int,
        until_stable: bool,
        watch: int,
        tell: Callable[[Report], None],
        keep: Callable[[Adaptation], None],
    ) -> None:
        self.collector = collector
        self.agent = agent
        self.tasks = tasks
        self.streams = streams
        self.episodes = episodes
        self.rounds = rounds
        self.until_stable = until_stable
        self.watch = watch
        self.tell = tell
        self.keep = keep
        self.played = 0
        self.life: Life | None = None
        """How long the one world has lived; None if its task stays."""
        self._changes_told = 0
        self._last_context: Context | None = None

    def run(self) -> None:
        """Adapt, execute, and adapt again whenever the return drops."""
        known = self.adapt([self.begin()])
        self.keep(known)
        # A memory would go on learning within a round, so its rounds are single episodes.
        episodes = self.episodes if self.agent.copies_share_experience else 1
        reference: list[float] = []
        left = 1 + self.watch
        while left > 0:
            # What a memory learns while executing is forgotten: the policy stays what it is.
            executed = self.execute(known, episodes)
            left -= 1
            limit = alarm_limit(reference, episodes)
            if executed.mean_return >= limit:
                reference += executed.returns
                continue
            self.event("dropped", f"return {executed.mean_return:.2f} is below {limit:.2f}")
            known, reference = self.adapt([self.begin(), known]), []
            self.keep(known)
            left = max(left, 1)  # to measure what that gave

    def adapt(self, starts: Sequence[Adaptation]) -> Adaptation:
        """Adapt from the start that earns more in a round; return what is to be executed.

        Meta-training made the first parameters to learn from, so they are always among the starts;
        after a small change of the task those that were adapted to it before may lie nearer.
        """
        trials = [self.play(start) for start in starts]
        played = max(trials, key=lambda trial: trial.round.mean_return)
        if len(trials) > 1:
            where = "the meta-parameters" if played is trials[0] else "the adapted policy"
            self.event("starts again", f"from {where}, which earned more")
        best, without_improvement = played, 0
        # Only what was played can be the best, so what the last adaptation gave is played, too.
        for _ in range(self.rounds if self.until_stable else self.rounds - 1):
            played = self.play(self.learn(played))
            if improves(played.round, best.round):
                best, without_improvement = played, 0
            else:
                without_improvement += 1
            if self.until_stable and without_improvement == PATIENCE:
                self.event("stable", f"round {best.round.number} was the best")
                return best.known
        if self.until_stable:
            self.event("not stable", f"round {best.round.number} was the best so far")
            return best.known
        return self.learn(played)

    def begin(self) -> Adaptation:
        """Return what the agent knows before any experience."""
        known = Adaptation(self.agent, self.collector, self.tasks, 1, self.streams, life=self.life)
        self.life = known.life
        return known

    def learn(self, played: Played) -> Adaptation:
        """Adapt to a round that was played."""
        known = played.adaptation.fork()
        known.learn()
        return known

    def play(self, known: Adaptation) -> Played:
        """Play a round to learn from, and tell of it."""
        adaptation = known.fork()
        played = self.lived(adaptation, self.episodes)
        return Played(known, self.told(known, "adapt", played, self.episodes), adaptation)

    def execute(self, known: Adaptation, episodes: int) -> Round:
        """Play a round that nothing is learned from, and tell of it."""
        return self.told(known, "execute", self.lived(known.fork(), episodes), episodes)

    def lived(self, adaptation: Adaptation, episodes: int) -> Rollout:
        """Play a round in the one world, whose time goes on."""
        adaptation.life = self.life
        played = rollout_of(adaptation.play(Phase(episodes)))
        self.life = adaptation.life
        return played

    def told(
        self,
        known: Adaptation,
        doing: Literal["adapt", "execute"],
        rollout: Rollout,
        episodes: int,
    ) -> Round:
        """Tell of a round that was played."""
        returns = episode_sums(rollout, rollout.reward, episodes).flatten()
        if not all_finite(returns):
            raise UserError("the rewards are not finite; look at the environment")
        self.played += 1
        result = Round(
            number=self.played,
            doing=doing,
            learned_from=known.episodes,
            returns=tuple(returns.tolist()),
            success=success_share(rollout, episodes),
            kl=self.divergence(known.context, rollout),
            env_steps=self.collector.env_steps,
        )
        self._last_context = known.context
        self.tell(result)
        self._tell_of_changes()
        return result

    def _tell_of_changes(self) -> None:
        """Tell what the task has become, as often as it has changed since this was told."""
        if self.life is None:
            return
        for number in range(self._changes_told + 1, int(self.life.number) + 1):
            self._changes_told = number
            task = self.life.course.task(0, number)
            self.event("changed", f"the task is now {called(task)}")

    @torch.no_grad()
    def divergence(self, context: Context, rollout: Rollout) -> float | None:
        """Return how far a round's policy is from that of the round before; see `Round.kl`."""
        before = self._last_context
        if before is None or not isinstance(self.agent, TellsDistribution):
            return None
        if before is context:
            return 0.0
        # Acting may write into a context: these are read again.
        context, before = tree_map_only(Tensor, torch.clone, (context, before))
        total = torch.zeros((), device=rollout.reward.device)
        for t in range(len(rollout.valid)):
            timestep = rollout.at(t)
            policy, context = self.agent.distribution(context, timestep)
            other, before = self.agent.distribution(before, timestep)
            total += torch.where(timestep.valid, policy.kl(other), 0.0).sum()
        return float(total / rollout.valid.sum())

    def event(
        self,
        event: Literal["stable", "not stable", "dropped", "starts again", "changed"],
        detail: str,
    ) -> None:
        """Tell of an event of the last round."""
        self.tell(Event(self.played, event, detail))


def called(task: Task) -> str:
    """Return what a task is called: its label, or where it has drifted to, which is none."""
    numbers = ", ".join(f"{number:.3g}" for number in task.params)
    return f"{task.name} at {numbers}" if task.index < 0 else task.label


def improves(result: Round, best: Round) -> bool:
    """Return whether a round is better than the best one before it.

    Its success is higher; or it is equal, or not defined, and the mean return is higher by more
    than its own standard error (zero for a single episode).
    """
    success, best_success = result.success or 0.0, best.success or 0.0
    if success != best_success:
        return success > best_success
    count = len(result.returns)
    error = np.std(result.returns, ddof=1) / np.sqrt(count) if count > 1 else 0.0
    return bool(result.mean_return - best.mean_return > error)


def success_share(rollout: Rollout, episodes: int) -> float | None:
    """Return the share of successful episodes, or None if no step says what success is."""
    told = rollout.metrics.get("success")
    if told is None or told[rollout.valid].isnan().all():
        return None
    decided = replace(rollout, metrics={"success": told.nan_to_num(0.0)})
    return float(episode_scores(decided, [SUCCESS], episodes)["success"].mean())
