"""The one loop of adaptation: begin, play, learn, play again.

Training, evaluation, the rounds of `adapt`, films, the doctor and benchmarks all run it.
"""

from copy import copy
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.errors import UserError
from meta_rl.core.lives import Life
from meta_rl.core.protocols import ChangingCollector, Collector, MetaAgent, Noises
from meta_rl.core.ranks import any_problem
from meta_rl.core.seeding import Streams
from meta_rl.core.types import (
    Context,
    Examples,
    Experience,
    MetaBatch,
    Phase,
    Rollout,
    Tasks,
    all_finite,
)


class NotFinite(UserError):  # noqa: N818
    """Experience, or what was learned of it, holds NaN or infinity.

    Args:
        batch: What was gathered until then.
    """

    def __init__(self, reason: str, batch: MetaBatch) -> None:
        super().__init__(reason)
        self.batch = batch


class Adaptation:
    """An agent on its way through the stages of adapting to M tasks, N copies each.

    Args:
        streams: Where chance comes from, unless a call names others.
        training: Whether a meta-update will learn from it. Then, if there are several ranks, all of
            them adapt to their own tasks, in step.
        life: How long the worlds have lived, if their tasks change; without it, they begin to.
    """

    def __init__(
        self,
        agent: MetaAgent,
        collector: Collector,
        tasks: Tasks,
        copies: int,
        streams: Noises,
        training: bool = False,
        life: Life | None = None,
    ) -> None:
        self.agent = agent
        self.collector = collector
        self.tasks = tasks
        self.copies = copies
        self.streams = streams
        self.training = training
        self.stage = 0
        """How often the tasks have adapted."""
        self.episodes = 0
        """Episodes of a task that its policy has learned from."""
        self.context: Context = agent.begin(tasks, copies, training)
        self.experience: tuple[Experience, ...] = ()
        """What was played to learn from, in order."""
        self.remembered: Experience | None = None
        """What the agent learned from last; a memory reaches back to its end."""
        self.life = life or self._born()
        """How long the worlds have lived; None if tasks stay as they are."""
        if self.life is not None and getattr(agent, "sees_tasks", False):
            raise UserError(
                f"{type(agent).__name__} is shown each task once, so it cannot follow changes; "
                f"leave out change.every, or take an agent that learns"
            )

    @property
    def phase(self) -> Phase:
        """What the agent wants to play at this stage."""
        return phase_at(self.agent, self.stage)

    def play(self, phase: Phase | None = None, streams: Noises | None = None) -> Experience:
        """Gather a phase's experience to learn from, the agent's own choice of phase by default.

        Raises:
            NotFinite: There is NaN or infinity in it.
        """
        phase = phase or self.phase
        played, self.context = self._collect(
            self.copies, phase, streams or self.streams, self.remembered, False, self.life
        )
        if self.training and isinstance(played, Rollout) and isinstance(self.streams, Streams):
            played = played.padded(self.streams.keep_alike(len(played.valid)))
        if self.life is not None:
            self.life = self.life.after(rollout_of(played), phase)
        self.experience += (played,)
        self.remembered = played
        self._refuse(self._problem(played))
        return played

    def learn(self, which: Bool[Tensor, "M"] | None = None) -> None:
        """Adapt to what was played last.

        Args:
            which: The tasks that adapt; without it, all do.

        Raises:
            NotFinite: The context became NaN or infinite.
        """
        played = self.experience[-1]
        adapted = self.agent.adapt(self.context, played)
        self.context = adapted if which is None else _chosen(which, adapted, self.context)
        self.stage += 1
        each = self.copies if self.agent.copies_share_experience else 1
        self.episodes += each * episodes_in(played)
        problem = (
            f"adaptation {self.stage} gave parameters that are not finite; a smaller "
            f"agent.inner_lr, or agent.later_inner_lr, may help"
        )
        self._refuse(None if all_finite(self.context) else problem)

    def measure(
        self,
        phase: Phase | None = None,
        copies: int | None = None,
        streams: Noises | None = None,
        deterministic: bool = False,
        remembering: bool = True,
    ) -> Experience:
        """Play with what is known now, and forget what it showed; tasks stay what they are now.

        Args:
            copies: In place of the adaptation's own, for agents whose copies share what they know.
            deterministic: Act by the mode of the policy.
            remembering: Begin with the last action and reward of what was learned from.

        Raises:
            NotFinite: There is NaN or infinity in it.
        """
        copies = copies or self.copies
        played, _ = self._collect(
            copies,
            phase or self.phase,
            streams or self.streams,
            self.remembered if remembering else None,
            deterministic,
            None if self.life is None else self.life.standing_still(copies),
        )
        if (problem := self._problem(played)) is not None:
            raise NotFinite(problem, self.batch())
        return played

    def complete(self) -> MetaBatch:
        """Go through all phases; return the meta-batch for the agent to learn from.

        Raises:
            NotFinite: What was gathered, or learned of it, holds NaN or infinity.
        """
        self.play()
        while self.stage + 1 < len(self.agent.phases):
            self.learn()
            self.play()
        return self.batch()

    def batch(self) -> MetaBatch:
        """Return what was played so far."""
        return MetaBatch(self.tasks, self.experience)

    def forget(self, which: Bool[Tensor, "M"]) -> None:
        """Let some tasks begin anew, with what the agent knows before any experience."""
        begun = self.agent.begin(self.tasks, self.copies, training=False)
        self.context = _chosen(which, begun, self.context)
        if which.all():
            self.remembered = None

    def fork(self) -> "Adaptation":
        """Return an adaptation that goes on from here on its own."""
        return copy(self)

    def _collect(
        self,
        copies: int,
        phase: Phase,
        streams: Noises,
        previous: Experience | None,
        deterministic: bool,
        life: Life | None,
    ) -> tuple[Experience, Context]:
        """Let the collector play, in worlds that have lived for so long."""
        collect = self.collector.collect
        if life is not None:
            assert isinstance(self.collector, ChangingCollector)
            collect = partial(self.collector.collect, life=life)
        return collect(
            self.agent,
            self.context,
            self.tasks,
            copies,
            phase,
            streams,
            previous,
            deterministic,
        )

    def _born(self) -> Life | None:
        """Begin the worlds' lives, if tasks change: of training ones anywhere between changes."""
        collector, agent = self.collector, self.agent
        if not isinstance(collector, ChangingCollector) or collector.changes is None:
            return None
        seed, shared = self.streams.env_seed(), agent.copies_share_experience
        return collector.changes.begin(self.tasks, self.copies, seed, shared, self.training)

    def _refuse(self, problem: str | None) -> None:
        """Raise what is wrong, if anything; in training on all ranks, wherever it went wrong."""
        problem = any_problem(problem) if self.training else problem
        if problem is not None:
            raise NotFinite(problem, self.batch())

    def _problem(self, played: Experience) -> str | None:
        """Say where NaN or infinity is, naming the tasks and the first step."""
        if isinstance(played, Examples):
            columns, valid = {"answers": played.answers}, None
        else:
            names = ("action", "reward", "next_obs")
            columns, valid = {name: getattr(played, name) for name in names}, played.valid
        wrong = torch.stack([_not_finite(column, valid) for column in columns.values()])
        if not wrong.any():
            return None
        which = int(wrong.flatten(1).any(1).nonzero()[0])
        by_step = wrong[which].any(-1)  # (T, M)
        labels = [
            task.label for task, bad in zip(self.tasks, by_step.any(0).tolist(), strict=True) if bad
        ]
        step = int(by_step.any(1).nonzero()[0])
        return (
            f"{list(columns)[which]} is not finite in phase {self.stage} of "
            f"{', '.join(labels[:5])}, first at step {step}; either the policy has diverged (a "
            f"lower inner_lr or outer step may help), or the simulator shows what is not finite"
        )


def _chosen(which: Bool[Tensor, "M"], one: Context, other: Context) -> Context:
    """Return the context that has some tasks' rows of one, and the rest of the other."""

    def choose(mine: Tensor, theirs: Tensor) -> Tensor:
        rows = which.to(mine.device).view(-1, *[1] * (mine.dim() - 1))
        return torch.where(rows, mine, theirs)

    chosen: Context = pytree.tree_map(choose, one, other)
    return chosen


def phase_at(agent: MetaAgent, stage: int) -> Phase:
    """Return the phase that an agent plays after so many adaptations."""
    return agent.phases[min(stage, len(agent.phases) - 1)]


def episodes_in(experience: Experience) -> int:
    """Return how many episodes each copy has played; examples are one."""
    if isinstance(experience, Examples):
        return 1
    return int(experience.last.sum(0).max())


def copies_have_contexts(agent: MetaAgent, tasks: Tasks) -> bool:
    """Return whether an agent's context has a row for each copy of a task."""
    one, two = (
        [leaf.shape for leaf in pytree.tree_leaves(context) if isinstance(leaf, Tensor)]
        for context in (agent.begin(tasks[:1], copies, False) for copies in (1, 2))
    )
    return one != two


def _not_finite(column: Tensor, valid: Tensor | None) -> Tensor:
    """Return (T, M, N): where a quantity of valid steps is NaN or infinite."""
    wrong = ~torch.isfinite(column)
    wrong = wrong.any(-1) if wrong.dim() == 4 else wrong
    return wrong if valid is None else wrong & valid


def rollout_of(experience: Experience) -> Rollout:
    """Return experience that must be a rollout."""
    if not isinstance(experience, Rollout):
        raise UserError("this needs a family that is played, and this one gives examples")
    return experience
