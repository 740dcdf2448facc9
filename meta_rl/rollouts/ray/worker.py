"""A Ray worker: it has an agent and a simulator of its own, and plays the jobs it is given."""

import contextlib
import os
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import ray
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import meta_rl
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import ChangingCollector, Collector, MetaAgent, TaskDistribution
from meta_rl.core.seeding import Noise, PartStreams, Shape
from meta_rl.core.types import Context, Experience, TimeStep, map_tensors
from meta_rl.rollouts.ray.job import (
    Arrays,
    Failed,
    Job,
    Played,
    columns_of,
    experience_of,
    to_arrays,
    to_tensors,
)

Builder: TypeAlias = Callable[[torch.device], tuple[MetaAgent, TaskDistribution]]
"""Makes a worker's agent and family. Ray sends a function of a module by its name."""

LEAST_TASKS, LEAST_WORLDS = 2, 4
"""From so many on, a row of a matrix product does not depend on the others: MKL multiplies one
matrix, or fewer than four rows, by other loops that round otherwise."""


@dataclass(frozen=True)
class Description:
    """What a worker tells of itself when it is ready."""

    node: str
    """Ray's name of its machine."""
    host: str
    pid: int
    software: str
    """Versions that must be those of the run."""
    cpu: str
    """Kind of CPU, as far as torch's loops differ by it."""
    most_worlds: int | None
    changes_within_episodes: bool


def software() -> str:
    """Return the versions that a worker must share with its run."""
    return f"meta-rl {meta_rl.__version__}, torch {torch.__version__}"


def cpu_kind() -> str:
    """Return the kind of CPU, as far as torch's loops differ by it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


class RolloutWorker:
    """Plays jobs: what a Ray actor runs.

    Args:
        device: Where its policy and its simulator are.
        threads: Threads, or processes, of its simulator; also torch's threads.
    """

    def __init__(self, build: Builder, device: str, threads: int) -> None:
        self._build, self._device, self._threads = build, torch.device(device), threads
        self._collector: Collector | None = None

    def prepare(self) -> Description | Failed:
        """Make the agent and the simulator, which takes a while."""
        try:
            torch.set_num_threads(self._threads)
            self._agent, self._distribution = self._build(self._device)
            collector = self._simulator()
        except UserError as error:
            return Failed(str(error))
        except Exception:
            return Failed(traceback.format_exc())
        return Description(
            ray.get_runtime_context().get_node_id(),
            platform.node(),
            os.getpid(),
            software(),
            cpu_kind(),
            collector.most_worlds,
            isinstance(collector, ChangingCollector) and collector.changes_within_episodes,
        )

    def play(self, state: Arrays, job: Job) -> Played | Failed:
        """Play a job with the agent that has this state.

        An exception is returned as text, since those of other packages may not travel. Then the
        simulator is made anew for the next job.
        """
        try:
            return self._played(state, job)
        except Exception:
            failed = Failed(traceback.format_exc())
            self.close()
            return failed

    def close(self) -> None:
        """Release the simulator with its processes, however it is."""
        collector, self._collector = self._collector, None
        if collector is not None:
            with contextlib.suppress(Exception):
                collector.close()

    def _played(self, state: Arrays, job: Job) -> Played:
        self._agent.load_state_dict(to_tensors(state, self._device))
        collector, streams = self._simulator(), job.streams(self._device)
        before, own = collector.env_steps, len(job.tasks)
        rows = in_company(own, job.copies, job.count)
        context = to_tensors(job.context, self._device)
        collect: Callable[..., tuple[Experience, Context]] = collector.collect
        if job.life is not None:
            assert isinstance(collector, ChangingCollector) and collector.changes is not None
            told = to_tensors(job.life, torch.device("cpu"))
            collect = partial(collect, life=collector.changes.life(told))
        experience, context = collect(
            InCompany(self._agent, rows, own) if len(rows) > own else self._agent,
            pytree.tree_map_only(Tensor, lambda x: x[rows], context),
            job.tasks,
            job.copies,
            job.phase,
            streams,
            job.previous and experience_of(to_tensors(job.previous, self._device)),
            job.deterministic,
        )
        return Played(
            columns_of(experience),
            to_arrays(pytree.tree_map_only(Tensor, lambda x: x[:own], context)),
            to_arrays(streams.state_dict()) if isinstance(streams, PartStreams) else None,
            collector.env_steps - before,
        )

    def _simulator(self) -> Collector:
        if self._collector is None:
            self._collector = self._distribution.make_collector(self._device, self._threads)
        return self._collector


def separable(count: int, copies: int) -> bool:
    """Return whether a meta-batch is large enough for its tasks to be played apart."""
    return count >= LEAST_TASKS and count * copies >= LEAST_WORLDS


def in_company(own: int, copies: int, count: int) -> list[int]:
    """Return the rows of a job to act for: its own, and repetitions of the last if they are few.

    Args:
        own: Tasks of the job.
        count: Tasks of the whole meta-batch: no more are acted for.
    """
    wanted = max(own, min(count, max(LEAST_TASKS, -(-LEAST_WORLDS // copies))))
    return [min(row, own - 1) for row in range(wanted)]


class InCompany:
    """An agent that acts for a few tasks as it would among others, bit for bit.

    Its context has the rows of all; `act` gives the tasks' own actions.

    Args:
        rows: Which task each row of the context is.
        own: Tasks that there are.
    """

    def __init__(self, agent: MetaAgent, rows: list[int], own: int) -> None:
        self._agent, self._rows, self._own = agent, rows, own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Tensor, Tensor, Context]:
        """Act for all rows; return the actions of the first ones."""
        company = map_tensors(lambda x: x[self._rows], timestep)
        repeated = None if noise is None else _RepeatedNoise(noise, self._rows, self._own)
        action, log_prob, context = self._agent.act(context, company, repeated)
        return action[: self._own], log_prob[: self._own], context


class _RepeatedNoise:
    """The tasks' own noise, once more for each row that repeats one of them."""

    def __init__(self, noise: Noise, rows: list[int], own: int) -> None:
        self._noise, self._rows, self._own = noise, rows, own

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers."""
        return self._noise.normal((self._own, *shape[1:]), dtype)[self._rows]

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw numbers uniform in [0, 1)."""
        return self._noise.uniform((self._own, *shape[1:]), dtype)[self._rows]
