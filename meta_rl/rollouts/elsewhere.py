"""A collector on one device for an agent on another."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.lives import Changes, Life
from meta_rl.core.protocols import ChangingCollector, Collector, MetaAgent, Noises
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import Context, Experience, Phase, Tasks, map_tensors
from meta_rl.rollouts.collector import ending


class CollectorElsewhere:
    """Lets a twin of the agent act where the worlds are, and brings back what was played.

    With a few worlds a GPU waits for each step of theirs, so the CPU acts sooner; the update is
    what the GPU is for. Per phase one copy of the agent's state, and of its context, goes there,
    and one of the rollout comes back. `Streams` must be where the twin is.

    Args:
        collector: Plays; from now on it belongs to this one.
        twin: An agent like the one that learns, where the collector is.
        there: The device of both.
        here: Where the agent that learns is, and where experience goes.
    """

    def __init__(
        self, collector: Collector, twin: MetaAgent, there: torch.device, here: torch.device
    ) -> None:
        self.collector, self.twin = collector, twin
        self._there, self._here = there, here

    @property
    def env_steps(self) -> int:
        """Steps of environments that were taken so far."""
        return self.collector.env_steps

    @env_steps.setter
    def env_steps(self, steps: int) -> None:
        self.collector.env_steps = steps

    @property
    def most_worlds(self) -> int | None:
        """Most worlds to hold together, for memory's sake; none knows no limit."""
        return self.collector.most_worlds

    @property
    def changes(self) -> Changes | None:
        """How the tasks change; None if they stay."""
        return self.collector.changes if isinstance(self.collector, ChangingCollector) else None

    @property
    def changes_within_episodes(self) -> bool:
        """Whether a task can change while an episode goes on."""
        collector = self.collector
        return isinstance(collector, ChangingCollector) and collector.changes_within_episodes

    def collect(
        self,
        agent: MetaAgent,
        context: Context,
        tasks: Tasks,
        copies: int,
        phase: Phase,
        streams: Noises,
        previous: Experience | None = None,
        deterministic: bool = False,
        life: Life | None = None,
    ) -> tuple[Experience, Context]:
        """Let the twin play as the agent would."""
        self.twin.load_state_dict(_moved(agent.state_dict(), self._there))
        if isinstance(streams, TaskStreams):
            streams = TaskStreams(streams.seed, self._there, streams.purpose)
        collect = self.collector.collect
        if life is not None:
            assert isinstance(self.collector, ChangingCollector)
            collect = partial(self.collector.collect, life=life)
        experience, context = collect(
            self.twin,
            _moved(context, self._there),
            tasks,
            copies,
            phase,
            streams,
            None if previous is None else _experience_on(self._there, ending(previous)),
            deterministic,
        )
        return _experience_on(self._here, experience), _moved(context, self._here)

    def close(self) -> None:
        """Close the collector."""
        self.collector.close()


def _experience_on(device: torch.device, experience: Experience) -> Experience:
    return map_tensors(lambda column: column.to(device), experience)


def _moved(tree: Any, device: torch.device) -> Any:
    """Return a pytree whose tensors are on a device."""
    return pytree.tree_map_only(Tensor, lambda x: x.to(device), tree)
