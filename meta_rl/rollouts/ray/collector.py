"""The collector of a run whose rollouts Ray workers play."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.lives import Changes, Life
from meta_rl.core.protocols import MetaAgent, Noises
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Context, Experience, Metrics, Phase, Tasks
from meta_rl.rollouts.ray.cluster import Cluster
from meta_rl.rollouts.ray.crew import Crew
from meta_rl.rollouts.ray.job import (
    Arrays,
    Job,
    Played,
    chance_of,
    columns_of,
    ending,
    experience_of,
    size_of,
    to_arrays,
    to_tensors,
)
from meta_rl.rollouts.ray.worker import Builder, RolloutWorker, separable


class RayCollector:
    """Shares out the tasks of a meta-batch among Ray workers; counts what travels.

    What it gathers is what a local collector would, bit for bit on machines of one kind: chance
    belongs to the tasks, whoever plays them. Adaptation stays with the caller: `adapt` on fewer
    tasks would round otherwise.

    Args:
        build: Makes the workers' agent, which must be the one that `collect` is given, and family.
        device: Where rollouts go.
        threads: Threads or processes of each worker's simulator; as many cores are reserved.
        gpus: GPUs that each worker reserves; with any, policies act there.
        deadline_s: How long a worker may take for a phase.
        say: Tells the user of workers that are lost.
        changes: How the tasks change; without it, they stay.
    """

    def __init__(
        self,
        cluster: Cluster,
        build: Builder,
        device: torch.device,
        workers: int,
        threads: int,
        gpus: float,
        deadline_s: float,
        say: Callable[[str], None],
        changes: Changes | None = None,
    ) -> None:
        self.env_steps = 0
        self.changes = changes
        self._cluster, self._device = cluster, device
        self._phases = self._sent = self._received = 0
        self._told = (0, 0)
        actor = ray.remote(RolloutWorker).options(
            num_cpus=threads, num_gpus=gpus, scheduling_strategy="SPREAD"
        )

        def hire() -> Any:
            return actor.remote(build, "cuda" if gpus else "cpu", threads)

        with ExitStack() as undo:
            undo.callback(self.close)
            self._crew = Crew(hire, workers, deadline_s, say)
            self._crew.begin()
            undo.pop_all()

    @property
    def most_worlds(self) -> int | None:
        """Most worlds to hold together: each worker has its share of them."""
        limits = [found.most_worlds for found in self._crew.descriptions]
        least = min((limit for limit in limits if limit is not None), default=None)
        return None if least is None else least * len(limits)

    @property
    def changes_within_episodes(self) -> bool:
        """Whether a task can change while an episode goes on."""
        return all(found.changes_within_episodes for found in self._crew.descriptions)

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
        jobs = [whole.part(rows) for rows in shares(len(tasks), copies, len(self._crew))]
        played = sorted(self._crew.play(state, jobs), key=lambda each: each[0].first)
        parts = [part for _, part in played]
        self._count(state, jobs, parts)
        if any(part.broken for part in parts):
            parts = ended_alike(parts)
        self.env_steps += sum(part.env_steps for part in parts)
        if isinstance(streams, Streams):
            # The noise goes on from where the longest rollout left it, as if there were only one.
            longest = max(parts, key=lambda part: part.steps)
            moved = to_tensors(longest.chance, torch.device("cpu"))
            streams.load_state_dict({**streams.state_dict(), **moved})
        columns = pytree.tree_map(side_by_side, *(part.columns for part in parts))
        moved_context = pytree.tree_map(stacked, *(part.context for part in parts))
        return experience_of(self._here(columns)), self._here(moved_context)

    def tell(self) -> Metrics:
        """Return what travelled, by phase, and what went wrong, since it was last asked."""
        phases = max(1, self._phases)
        lost, again = self._crew.lost_workers, self._crew.tasks_played_again
        before = self._told
        told = {
            "rollouts/sent_mb_a_phase": self._sent / phases / 1e6,
            "rollouts/received_mb_a_phase": self._received / phases / 1e6,
            "rollouts/lost_workers": lost - before[0],
            "rollouts/tasks_played_again": again - before[1],
        }
        self._phases = self._sent = self._received = 0
        self._told = lost, again
        return {name: torch.tensor(float(value)) for name, value in told.items()}

    def close(self) -> None:
        """End the workers, and Ray if it was started for the run."""
        if hasattr(self, "_crew"):
            self._crew.close()
        self._cluster.leave()

    def _here(self, tree: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda x: x.to(self._device), tree)

    def _count(self, state: Arrays, jobs: Sequence[Job], parts: Sequence[Played]) -> None:
        self._phases += 1
        self._sent += size_of(state) + sum(size_of((job.context, job.previous)) for job in jobs)
        self._received += sum(size_of((part.columns, part.context)) for part in parts)


def shares(count: int, copies: int, workers: int) -> list[slice]:
    """Return which tasks of a meta-batch each worker plays: one block, as even as can be."""
    parts = min(workers, count) if separable(count, copies) else 1
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(*bounds) for bounds in pairwise(ends)]


def ended_alike(parts: Sequence[Played]) -> list[Played]:
    """End all parts of a rollout at the first action of any that is not finite, as one would."""
    broken = min((part for part in parts if part.broken), key=lambda part: part.steps)
    ended = []
    for part in parts:
        columns = pytree.tree_map(lambda column: column[: broken.steps], dict(part.columns))
        steps = int(columns["valid"].sum())
        ended.append(replace(part, columns=columns, env_steps=steps, chance=broken.chance))
    return ended


def side_by_side(*parts: np.ndarray) -> Tensor:
    """Join columns (T, M, ...) along the tasks' axis; shorter ones are padded with zeros."""
    tasks = sum(part.shape[1] for part in parts)
    joined = np.zeros((max(map(len, parts)), tasks, *parts[0].shape[2:]), parts[0].dtype)
    first = 0
    for part in parts:
        joined[: len(part), first : first + part.shape[1]] = part
        first += part.shape[1]
    return torch.from_numpy(joined)


def stacked(*parts: Any) -> Any:
    """Join leaves of contexts along the tasks' axis; plain values are the same in all."""
    if isinstance(parts[0], np.ndarray):
        return torch.from_numpy(np.concatenate(parts))
    return parts[0]
