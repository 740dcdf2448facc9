"""What runs in a Ray worker: an agent and a simulator of its own, which play the jobs it gets."""

import contextlib
import os
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch

import meta_rl
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import ChangingCollector, Collector, MetaAgent, TaskDistribution
from meta_rl.core.seeding import PartStreams
from meta_rl.core.types import Context, Experience
from meta_rl.rollouts.ray.company import Company, InCompany, act_alike
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


@dataclass(frozen=True)
class Description:
    """What a worker tells of itself when it is ready."""

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
        self._few_are_enough: dict[tuple[Company, Company, int], bool] = {}

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
        before = collector.env_steps
        context = to_tensors(job.context, self._device)
        company = self._company(job, context)
        collect: Callable[..., tuple[Experience, Context]] = collector.collect
        if job.life is not None:
            assert isinstance(collector, ChangingCollector) and collector.changes is not None
            told = to_tensors(job.life, torch.device("cpu"))
            collect = partial(collect, life=collector.changes.life(told))
        alone = len(company.rows) == company.own
        experience, context = collect(
            self._agent if alone else InCompany(self._agent, company),
            company.grown(context),
            job.tasks,
            job.copies,
            job.phase,
            streams,
            job.previous and experience_of(to_tensors(job.previous, self._device)),
            job.deterministic,
        )
        return Played(
            columns_of(experience),
            to_arrays(company.shrunk(context)),
            to_arrays(streams.state_dict()) if isinstance(streams, PartStreams) else None,
            collector.env_steps - before,
            len(company.rows),
        )

    def _company(self, job: Job, context: Context) -> Company:
        """Return the rows to act for, so that the tasks' actions are those of the whole."""
        own = len(job.tasks)
        few = Company.of_few(job.first, own, job.count, job.copies)
        every = Company.of_all(job.first, own, job.count)
        if few != every and (few, every, job.copies) not in self._few_are_enough:
            spec = self._distribution.spec
            alike = act_alike(self._agent, context, (few, every), job.copies, spec, self._device)
            self._few_are_enough[few, every, job.copies] = alike
        return few if self._few_are_enough.get((few, every, job.copies)) else every

    def _simulator(self) -> Collector:
        if self._collector is None:
            self._collector = self._distribution.make_collector(self._device, self._threads)
        return self._collector
