"""What a task distribution, a simulator and an agent are to the rest of the platform."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.distributions import Distribution
from meta_rl.core.seeding import Noise, PartStreams, Streams, TaskStreams
from meta_rl.core.types import (
    Context,
    EnvSpec,
    Experience,
    MetaBatch,
    Metrics,
    Params,
    Phase,
    Picture,
    Rollout,
    Step,
    Tasks,
    TimeStep,
)

if TYPE_CHECKING:
    from meta_rl.core.lives import Changes, Life

Split: TypeAlias = Literal["train", "validation", "test"]
"""Tasks to train on, to choose by while training, and to measure at the end."""

ALL_TASKS = "splits"
"""Key of the protocol of a family whose splits all hold every task that there is, with a sentence
that says so. Such tasks are no sample, so no interval is over them."""

Noises: TypeAlias = Streams | PartStreams | TaskStreams
"""Where a rollout's chance comes from: the actions' noise, and the simulator's seed."""


@runtime_checkable
class TaskEnv(Protocol):
    """A simulator that steps N copies of each of M tasks together.

    There is no hidden reset: an episode that ended stays ended until `reset_ended`. Actions
    outside the action space are clipped to it.
    """

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations.

        What a task's worlds do depends on the task, the seed and the actions alone: not on what
        the simulator did before, nor on its number of workers or threads, nor on other tasks.
        """
        ...

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Step all worlds once."""
        ...

    def reset_ended(self) -> Float[Tensor, "M N O"]:
        """Begin a new episode where the last step ended one; return all current observations."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...


@runtime_checkable
class ChangingTaskEnv(TaskEnv, Protocol):
    """A simulator whose worlds can become other tasks: what tasks that change need."""

    changes_within_episodes: bool
    """Whether a world can become another task while its episode goes on."""

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Turn each of these worlds, m * N + n for copy n of row m, into the task beside it.

        A world whose episode has ended, or that has not stepped since `start`, begins its next one
        as that task when `reset_ended` is called. Any other goes on from where it is, with the same
        name of task: what it observes and earns is of its new task from the next step on.
        """
        ...


@runtime_checkable
class DrawingTaskEnv(TaskEnv, Protocol):
    """A simulator that can also draw: what a family needs for videos, and for nothing else."""

    def draw(self) -> Picture:
        """Return a picture of the first world, copy 0 of task 0, as it is now."""
        ...


@runtime_checkable
class Collector(Protocol):
    """Gathers experience of a family: by threads, processes, a GPU, a cluster or by drawing."""

    env_steps: int
    """Steps of environments that it has taken so far."""

    @property
    def most_worlds(self) -> int | None:
        """Most worlds to hold together, for memory's sake; none knows no limit."""
        ...

    def collect(
        self,
        agent: "MetaAgent",
        context: Context,
        tasks: Tasks,
        copies: int,
        phase: Phase,
        streams: Noises,
        previous: Experience | None = None,
        deterministic: bool = False,
    ) -> tuple[Experience, Context]:
        """Let every copy of every task gather a phase's experience; return also the moved context.

        The context that is given stays as it is: what `act` writes into is a copy.

        Args:
            streams: Where chance comes from.
            previous: The experience of the same copies that this one continues.
            deterministic: Act by the mode of the policy.
        """
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...


@runtime_checkable
class ChangingCollector(Collector, Protocol):
    """A collector of rollouts in which tasks can change."""

    changes: "Changes | None"
    """How the tasks change; None if they stay."""

    @property
    def changes_within_episodes(self) -> bool:
        """Whether a task can change while an episode goes on."""
        ...

    def collect(
        self,
        agent: "MetaAgent",
        context: Context,
        tasks: Tasks,
        copies: int,
        phase: Phase,
        streams: Noises,
        previous: Experience | None = None,
        deterministic: bool = False,
        life: "Life | None" = None,
    ) -> tuple[Experience, Context]:
        """Do as every collector, in worlds that have lived for so long."""
        ...


@runtime_checkable
class TellingCollector(Collector, Protocol):
    """A collector with something to log of its own work."""

    def tell(self) -> Metrics:
        """Return what it did since it was last asked."""
        ...


@runtime_checkable
class TaskDistribution(Protocol):
    """A family of tasks in three disjoint splits. Sampling never touches a simulator.

    Validation tasks are drawn like the family's own, from a seed of their own: they take nothing
    from the train split, and say nothing of the test split. A family that has too few tasks to hold
    any out gives the same in every split, and its protocol says so under `ALL_TASKS`.
    """

    family: str
    spec: EnvSpec

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw the tasks of one meta-batch."""
        ...

    def tasks(self, split: Split) -> Tasks:
        """Return the fixed tasks of a split, in a fixed order: those that evaluation covers."""
        ...

    def make_collector(self, device: torch.device, workers: int) -> Collector:
        """Make what gathers experience, with tensors on `device`, in `workers` processes if any.

        `rollouts.collector.SimulatedFamily` does it for a family that has a simulator.
        """
        ...

    def protocol(self) -> Mapping[str, Any]:
        """Return what about the tasks a published number depends on: benchmark, versions, ..."""
        ...


@runtime_checkable
class EnvDistribution(TaskDistribution, Protocol):
    """A family whose tasks are played in a simulator."""

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make a simulator with tensors on `device`, in `workers` processes if it uses any."""
        ...


@runtime_checkable
class OpenDistribution(TaskDistribution, Protocol):
    """A distribution whose policies fit tasks that it does not hold itself."""

    def beyond(self, name: str) -> "TaskDistribution | None":
        """Return a distribution with tasks of that name and the same spec, or None."""
        ...


@runtime_checkable
class OtherwiseCounted(TaskDistribution, Protocol):
    """A distribution on which other code than ours can evaluate agents, by its own counting."""

    def other_counts(self) -> "Mapping[str, Callable[..., dict[str, Any]]]":
        """Return evaluations by name, for `meta-rl evaluate --counted-by NAME`.

        Each is called with an agent, a device, an `EvaluationConfig` and the copies of a task, and
        returns plain data: `success`, `episode_return` and `success_by_name`, the `options` that
        they depend on, and a `warning` that says why they compare with no other result.
        """
        ...


@runtime_checkable
class Expert(Protocol):
    """Who knows how to solve a family's tasks: the family's module may make one by `expert()`.

    For oracle controls alone, since experts see what the tasks hide. They have no memory.
    """

    def knowledge(self, tasks: Tasks) -> Float[Tensor, "M K"]:
        """Return all that an expert must know of each task, as numbers."""
        ...

    def act(
        self, knowledge: Float[Tensor, "M K"], obs: Float[Tensor, "M N O"]
    ) -> Float[Tensor, "M N A"]:
        """Return what an expert with that knowledge does, within the action's bounds."""
        ...


@runtime_checkable
class MetaAgent(Protocol):
    """A learning algorithm.

    `begin`, `act` and `adapt` never change the agent; only `meta_update` does.
    """

    phases: tuple[Phase, ...]
    """The experience one meta-update needs, in order; `adapt` is called between them. A task that
    has adapted more often than there are phases goes on with the last."""
    copies_share_experience: bool
    """Whether a task's copies learn together, or each is a trial of its own: tells how many
    episodes one adaptation costs."""

    def begin(self, tasks: Tasks, copies: int, training: bool) -> Context:
        """Return the context before any experience.

        Only oracle controls may look at the tasks; they say so by an attribute `sees_tasks = True`.

        Args:
            training: Whether a meta-update will learn from what follows, or it is a measurement.
        """
        ...

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], Context]:
        """Return actions, their log-probabilities and the moved context.

        It may write into the context, such as into a key-value cache: a rollout has its own copy.

        Args:
            noise: The chance in the actions; None asks for the mode of the distribution.
        """
        ...

    def adapt(self, context: Context, experience: Experience) -> Context:
        """Learn from a phase's experience, each task from its own copies alone."""
        ...

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Improve the agent from the phases' experience: the only method that changes it.

        Several ranks (`core.ranks`) call it at once, each with its own tasks, if the agent says by
        an attribute `learns_over_ranks = True` that it takes all means over tasks over all ranks.

        An agent that holds tasks or copies against each other says by an attribute `least`, such
        as `{"copies": 2}`, how many it must have; fewer are refused before a run begins. One that
        asks which experience is of the same task says `learns_by_task = True`; training tasks that
        change are refused then.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `meta_update` changes: tensors and plain numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@runtime_checkable
class TellsDistribution(Protocol):
    """What an agent may offer beside `MetaAgent`: the distribution that its actions come from."""

    def distribution(self, context: Context, timestep: TimeStep) -> tuple[Distribution, Context]:
        """Return the distribution that `act` draws from, and the moved context."""
        ...


@dataclass(frozen=True)
class Belief:
    """What an agent holds to be the task of each copy, in a space of its own."""

    mean: Float[Tensor, "M N L"]
    std: Float[Tensor, "M N L"] | None
    """How uncertain it is of each dimension; None if it does not say."""


@runtime_checkable
class TellsBelief(Protocol):
    """What an agent may offer beside `MetaAgent`: what it holds to be the task, for reports."""

    def belief(self, context: Context) -> Belief:
        """Return what is believed of the tasks, given what is known of them."""
        ...


@runtime_checkable
class Stored(Protocol):
    """What an agent offers beside `MetaAgent` if it stores experience, which no checkpoint holds.

    Only `meta_update` stores. `learning.replay.KeepsReplay` has all of this. An agent that also
    learns over ranks stores the same on all of them; rank 0 writes it, and all read it.
    """

    @property
    def room(self) -> int:
        """Bytes of a full store; found before a run. No column has more than half of them."""
        ...

    def mark(self) -> dict[str, Any]:
        """Return plain data that names what is stored now; cheap, for it is asked each iteration.

        What a mark names must be there until something is stored after a later one.
        """
        ...

    def rewind(self, mark: Mapping[str, Any]) -> None:
        """Forget what was stored after the last mark, since the update was rejected."""
        ...

    def write_stored(self, folder: Path, mark: Mapping[str, Any]) -> None:
        """Write what a mark names, in files that are never changed afterwards."""
        ...

    def delete_stored(self, folder: Path, mark: Mapping[str, Any]) -> None:
        """Delete the files that a mark has no need of, now that its checkpoint is written."""
        ...

    def read_stored(self, folder: Path, mark: Mapping[str, Any]) -> None:
        """Read what a mark names; what was written later is forgotten."""
        ...


@dataclass(frozen=True)
class Surrogate:
    """What the first gradient step of a meta-update follows, opened for inspection.

    Both functions take parameters in double precision if the meta-batch is in double precision.
    """

    theta: Params
    """The parameters that the update moves."""
    loss: Callable[[Params], Float[Tensor, ""]]
    """What it lowers; its derivative by autograd is the gradient that it follows."""
    log_ratio: Callable[[Params], Float[Tensor, "T M N"]]
    """log π_θ(a|s) of the rollout's actions, less what it was when they were drawn."""
    advantage: Float[Tensor, "T M N"]
    """How much better than expected each action was: what the loss weighs it by."""
    rollout: Rollout
    """The steps that the loss is taken on."""
    gamma: float
    """Discount, per environment step, of the return that the advantages are of."""
    across_episodes: bool
    """Whether that return runs on over the episodes of a trial."""
    approximation: str | None
    """What the gradient leaves out on purpose, so that it is not the loss's; none if nothing."""


@runtime_checkable
class Inspectable(Protocol):
    """What an agent may offer beside `MetaAgent`, so that `meta-rl doctor` can check its maths."""

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Return the objective that `meta_update` would follow on this meta-batch."""
        ...
