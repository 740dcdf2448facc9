"""The workers of a run: who is there, who is lost, and who plays what."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from meta_rl.core.errors import UserError
from meta_rl.rollouts.ray.cluster import Cluster
from meta_rl.rollouts.ray.company import separable
from meta_rl.rollouts.ray.job import Arrays, Failed, Job, Played
from meta_rl.rollouts.ray.worker import Builder, Description, RolloutWorker, cpu_kind, software

TRIES = 3
"""How often a task is played before what fails ends the run."""
FAREWELL_S = 5.0
"""How long workers may take to release their simulators before they are killed."""


@dataclass(frozen=True)
class Worker:
    """A worker as the run sees it."""

    number: int
    actor: Any
    description: Description | None = None
    """Unknown until it is ready."""

    def __str__(self) -> str:
        where = f" on {self.description.host}" if self.description else ""
        return f"Ray worker {self.number}{where}"


@dataclass(frozen=True)
class Try:
    """A try that failed."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Work:
    """A job, and the tries of it that failed."""

    job: Job
    tries: tuple[Try, ...] = ()

    @property
    def labels(self) -> str:
        """The tasks as messages name them."""
        labels = [task.label for task in self.job.tasks]
        return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")

    def again(self, failed: Try) -> "list[Work]":
        """Return what is left to do: each task by itself, so that it is known which one fails."""
        tries, job = (*self.tries, failed), self.job
        if not separable(job.count, job.copies):
            return [replace(self, tries=tries)]
        return [Work(job.part(slice(row, row + 1)), tries) for row in range(len(job.tasks))]

    def was_with(self, worker: Worker) -> bool:
        """Return whether a worker has failed at it."""
        return any(worker.number == failed.worker.number for failed in self.tries)


class Crew:
    """Ray workers that play jobs. One that is lost is replaced; what it had is played elsewhere.

    Args:
        cluster: Which is left at the end.
        build: Makes the agent and the family of a worker.
        size: Workers to begin with.
        threads: Threads or processes of each worker's simulator; as many cores are reserved.
        gpus: GPUs that each worker reserves; with any, its policy and simulator are there.
        deadline_s: How long a worker may take to begin, and for a job.
        say: Tells the user what goes wrong.
    """

    def __init__(
        self,
        cluster: Cluster,
        build: Builder,
        size: int,
        threads: int,
        gpus: float,
        deadline_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._cluster, self._deadline_s, self._say = cluster, deadline_s, say
        actor = ray.remote(RolloutWorker).options(
            num_cpus=threads, num_gpus=gpus, scheduling_strategy="SPREAD"
        )
        self._start = partial(actor.remote, build, "cuda" if gpus else "cpu", threads)
        self._hired = 0
        self._failed_hires = 0
        self._begun = False
        self._arriving: dict[Any, Worker] = {}
        self._idle: deque[Worker] = deque()
        self._busy: dict[Any, tuple[Worker, Work, float]] = {}
        self.lost_workers = 0
        self.tasks_played_again = 0
        for _ in range(size):
            self._hire()

    def present(self) -> list[Description]:
        """Return what the workers that are ready tell of themselves; at first, wait for all.

        Raises:
            UserError: A worker cannot begin, or none does in time.
        """
        if not self._begun:
            self._begin()
            self._begun = True
        if self._arriving:
            ready, _ = ray.wait([*self._arriving], num_returns=len(self._arriving), timeout=0)
            self._admit(ready)
        return [worker.description for worker in self._idle if worker.description]

    def play(self, state: Arrays, jobs: Sequence[Job]) -> Iterator[tuple[Job, Played]]:
        """Let the workers play jobs; yield what they bring, in the order in which they are done.

        Args:
            state: The agent's, which is sent once to each machine.

        Raises:
            UserError: A task has failed too often, or there are no workers left.
        """
        sent = ray.put(state)
        waiting = [Work(job) for job in jobs]
        try:
            while waiting or self._busy:
                self._assign(waiting, sent)
                for work, outcome in self._next():
                    if isinstance(outcome, Played):
                        yield work.job, outcome
                    else:
                        waiting += self._retry(work, outcome)
        finally:  # after an error, what others still play is of no use
            for ref in list(self._busy):
                self._replace(ref)

    def close(self) -> None:
        """Let workers release what they hold, and end them."""
        idle = [worker.actor.close.remote() for worker in self._idle]
        with contextlib.suppress(RayError):
            ray.wait(idle, num_returns=len(idle), timeout=FAREWELL_S) if idle else None
        for worker in (*self._idle, *self._playing, *self._arriving.values()):
            ray.kill(worker.actor)
        self._idle.clear()
        self._busy.clear()
        self._arriving.clear()
        self._cluster.leave()

    @property
    def _playing(self) -> list[Worker]:
        return [worker for worker, _, _ in self._busy.values()]

    def _begin(self) -> None:
        """Wait until all workers are ready, or until the deadline if some are."""
        due = time.monotonic() + self._deadline_s
        wanted = len(self._arriving)
        while self._arriving and (left := due - time.monotonic()) > 0:
            ready, _ = ray.wait(list(self._arriving), num_returns=1, timeout=left)
            for ref in ready:
                if reason := self._welcome(ref):
                    raise UserError(f"a Ray worker cannot begin: {reason}")
        if not self._idle:
            raise UserError(
                f"none of {wanted} Ray workers was ready within {self._deadline_s:g} s; look for "
                f"free CPUs and GPUs with `ray status`, or raise rollouts.deadline_s"
            )
        if self._arriving:
            self._say(
                f"beginning with {len(self._idle)} of {wanted} Ray workers; the others join when "
                f"they are ready"
            )

    def _assign(self, waiting: list[Work], state: Any) -> None:
        """Give jobs to idle workers; one that has failed waits for a worker that has not had it."""
        for work in list(waiting):
            free = [worker for worker in self._idle if not work.was_with(worker)]
            if not free and all(map(work.was_with, self._playing)):
                free = list(self._idle)
            if not free:
                continue
            chosen = free[0]
            self._idle.remove(chosen)
            waiting.remove(work)
            ref = chosen.actor.play.remote(state, work.job)
            self._busy[ref] = (chosen, work, time.monotonic() + self._deadline_s)

    def _next(self) -> Iterable[tuple[Work, Played | Try]]:
        """Wait for something to happen; return the jobs that are done or lost by it."""
        refs = [*self._busy, *self._arriving]
        if not refs:
            raise UserError("no Ray worker is left, and none could be replaced; see `ray status`")
        dues = [due for _, _, due in self._busy.values()]
        timeout = min(dues) - time.monotonic() if dues else self._deadline_s
        ready, _ = ray.wait(refs, num_returns=1, timeout=max(0.0, timeout))
        if not ready and not dues:
            raise UserError(
                f"all Ray workers are lost, and none began anew within {self._deadline_s:g} s; see "
                f"`ray status`"
            )
        for ref in ready:
            if ref in self._busy:
                yield self._outcome(ref)
            else:
                self._admit([ref])
        now = time.monotonic()
        for ref in [ref for ref, (_, _, due) in self._busy.items() if due <= now]:
            yield self._overdue(ref)

    def _outcome(self, ref: Any) -> tuple[Work, Played | Try]:
        """Return what became of a job that has ended."""
        worker, work, due = self._busy[ref]
        try:
            outcome = ray.get(ref, timeout=max(1.0, due - time.monotonic()))
        except RayTaskError as error:  # not of the simulator: those are returned
            outcome = Failed(str(error))
        except (RayError, TimeoutError) as error:
            return work, self._lose(ref, type(error).__name__)
        del self._busy[ref]
        self._idle.append(worker)
        if isinstance(outcome, Failed):
            return work, Try(worker, outcome.traceback)
        return work, outcome

    def _overdue(self, ref: Any) -> tuple[Work, Try]:
        return self._busy[ref][1], self._lose(ref, f"no answer within {self._deadline_s:g} s")

    def _retry(self, work: Work, failed: Try) -> list[Work]:
        """Return what is to be played again, or end the run."""
        again = work.again(failed)
        short = failed.reason.strip().splitlines()[-1]
        if len(again[0].tries) >= TRIES:
            raise UserError(
                f"{work.labels} could not be played in {TRIES} tries with simulator seed "
                f"{work.job.env_seed} and {work.job.copies} copies; {failed.worker} ended the "
                f"last one with:\n{failed.reason.rstrip()}"
            )
        self.tasks_played_again += len(work.job.tasks)
        self._say(f"{failed.worker}: {short}; playing {work.labels} again")
        return again

    def _lose(self, ref: Any, reason: str) -> Try:
        """Count a worker that has a job as lost."""
        self.lost_workers += 1
        return Try(self._replace(ref), f"lost ({reason})")

    def _replace(self, ref: Any) -> Worker:
        """End a worker that has a job, and hire another."""
        worker, _, _ = self._busy.pop(ref)
        ray.kill(worker.actor)
        self._hire()
        return worker

    def _hire(self) -> None:
        worker = Worker(self._hired, self._start())
        self._hired += 1
        self._arriving[worker.actor.prepare.remote()] = worker

    def _admit(self, refs: Iterable[Any]) -> None:
        """Let workers join that have begun; say why one could not."""
        for ref in refs:
            if reason := self._welcome(ref):
                self._say(f"a Ray worker could not begin: {reason}")

    def _welcome(self, ref: Any) -> str | None:
        """Let a worker join that is ready; return what is wrong if it cannot."""
        worker = self._arriving.pop(ref)
        try:
            description = ray.get(ref)
        except RayError as error:
            description = Failed(f"{type(error).__name__}: {error}".splitlines()[0])
        if isinstance(description, Failed):
            ray.kill(worker.actor)
            self._failed_hires += 1
            if self._failed_hires < TRIES:
                self._hire()
            return description.traceback
        if description.software != software():
            ray.kill(worker.actor)
            return f"{description.host} has {description.software}, but this is {software()}"
        if description.cpu != cpu_kind():
            self._say(
                f"{description.host} has another kind of CPU ({description.cpu}) than this machine "
                f"({cpu_kind()}): results may differ in their last bits from run to run"
            )
        self._failed_hires = 0
        self._idle.append(replace(worker, description=description))
        return None
