"""The collector of a run whose rollouts are played by workers elsewhere."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.lives import Changes, Life
from meta_rl.core.protocols import MetaAgent, Noises
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Context, Experience, Metrics, Phase, Tasks
from meta_rl.rollouts.collector import ending
from meta_rl.rollouts.ray.job import (
    Arrays,
    Job,
    Played,
    chance_of,
    columns_of,
    experience_of,
    size_of,
    to_arrays,
    to_tensors,
)
from meta_rl.rollouts.ray.sharing import ended_alike, shares, side_by_side, stacked
from meta_rl.rollouts.ray.worker import Description


@runtime_checkable
class Players(Protocol):
    """Who plays jobs."""

    lost_workers: int
    tasks_played_again: int

    def present(self) -> list[Description]:
        """Return what the workers that are ready tell of themselves; first wait for them."""
        ...

    def play(self, state: Arrays, jobs: Sequence[Job]) -> Iterable[tuple[Job, Played]]:
        """Play jobs with the agent that has this state; give what they bring, in any order."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class SharingCollector:
    """Shares out the tasks of a meta-batch among workers; counts what travels.

    What it gathers is what a local collector would, bit for bit on machines of one kind: chance
    belongs to the tasks, whoever plays them. Adaptation stays with the caller: what `adapt`
    computes for fewer tasks would be rounded otherwise.

    Args:
        device: Where experience goes.
        changes: How the tasks change; without it, they stay.
    """

    def __init__(
        self, players: Players, device: torch.device, changes: Changes | None = None
    ) -> None:
        self.env_steps = 0
        self.changes = changes
        self._players, self._device = players, device
        self._phases = self._sent_bytes = self._received_bytes = 0
        self._tasks = self._acted_for = 0
        self._told = (0, 0)

    @property
    def most_worlds(self) -> int | None:
        """Most worlds to hold together: each worker has its share of them."""
        limits = [found.most_worlds for found in self._players.present()]
        least = min((limit for limit in limits if limit is not None), default=None)
        return None if least is None else least * len(limits)

    @property
    def changes_within_episodes(self) -> bool:
        """Whether a task can change while an episode goes on."""
        return all(found.changes_within_episodes for found in self._players.present())

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
        """Let each worker play some of the tasks.

        Raises:
            UserError: A task could not be played, also not elsewhere.
        """
        whole = Job(
            tasks,
            0,
            len(tasks),
            copies,
            phase,
            chance_of(streams),
            to_arrays(context),
            None if previous is None else columns_of(ending(previous)),
            deterministic,
            None if life is None else to_arrays(life.told()),
        )
        state = to_arrays(agent.state_dict())
        workers = len(self._players.present())
        jobs = [whole.part(rows) for rows in shares(len(tasks), copies, workers)]
        played = sorted(self._players.play(state, jobs), key=lambda each: each[0].first)
        parts = ended_alike([part for _, part in played])
        self._count(state, jobs, parts)
        if isinstance(streams, Streams):
            # The noise goes on from where the longest part left it, as if there were only one.
            longest = max(parts, key=lambda part: part.steps)
            moved = to_tensors(longest.chance, torch.device("cpu"))
            streams.load_state_dict({**streams.state_dict(), **moved})
        columns = pytree.tree_map(side_by_side, *(dict(part.columns) for part in parts))
        contexts = pytree.tree_map(stacked, *(part.context for part in parts))
        return experience_of(self._here(columns)), self._here(contexts)

    def tell(self) -> Metrics:
        """Return what travelled by phase, and what was lost, since it was last asked."""
        phases = max(1, self._phases)
        lost, again = self._players.lost_workers, self._players.tasks_played_again
        told = {
            "rollouts/sent_mb_a_phase": self._sent_bytes / phases / 1e6,
            "rollouts/received_mb_a_phase": self._received_bytes / phases / 1e6,
            "rollouts/acted_for_a_task": self._acted_for / max(1, self._tasks),
            "rollouts/lost_workers": lost - self._told[0],
            "rollouts/tasks_played_again": again - self._told[1],
        }
        self._phases = self._sent_bytes = self._received_bytes = 0
        self._tasks = self._acted_for = 0
        self._told = lost, again
        return {name: torch.tensor(float(value)) for name, value in told.items()}

    def close(self) -> None:
        """End the workers."""
        self._players.close()

    def _here(self, tree: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda x: x.to(self._device), tree)

    def _count(self, state: Arrays, jobs: Sequence[Job], parts: Sequence[Played]) -> None:
        self.env_steps += sum(part.env_steps for part in parts)
        self._phases += 1
        self._tasks += sum(len(job.tasks) for job in jobs)
        self._acted_for += sum(part.acted_for for part in parts)
        sent = [state, *((job.context, job.previous) for job in jobs)]
        self._sent_bytes += sum(map(size_of, sent))
        self._received_bytes += sum(size_of((dict(p.columns), p.context)) for p in parts)
