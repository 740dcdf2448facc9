"""What a meta-iteration costs on Ray workers: a model, for `cluster_model.py`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meta_rl.rollouts.ray.company import Company
from meta_rl.rollouts.ray.sharing import shares

CALL_S = 1e-3
"""Assumed: what the learner pays to hand one worker its job of a phase and to hear of its end."""


@dataclass(frozen=True)
class Line:
    """Seconds for n tasks: some whatever n is, and some for each."""

    fixed_s: float
    each_s: float

    @classmethod
    def through(cls, tasks: Sequence[int], seconds: Sequence[float]) -> "Line":
        """Return the line of least squares, without a negative part."""
        each, fixed = np.polyfit(tasks, seconds, 1)
        if each < 0:
            return cls(float(np.mean(seconds)), 0.0)
        if fixed < 0:
            return cls(0.0, float(np.dot(tasks, seconds) / np.dot(tasks, tasks)))
        return cls(float(fixed), float(each))

    def of(self, tasks: int) -> float:
        """Return the seconds for so many tasks."""
        return self.fixed_s + self.each_s * tasks


@dataclass(frozen=True)
class Costs:
    """What was measured of one experiment's meta-iteration, all its phases together."""

    tasks: int
    """Tasks of the meta-batch (M)."""
    copies: int
    phases: int
    env_steps_a_task: int
    playing: Line
    """A worker on one core: simulator and recording, by tasks played."""
    acting: Line
    """A worker on one core: the policy, by tasks acted for."""
    learning: Line
    """The learner: adaptation and meta-update, by tasks of the meta-batch."""
    state_bytes: int
    """The agent's state, which goes to each machine once a phase."""
    sent_bytes_a_task: float
    received_bytes_a_task: float
    copied_bytes_a_s: float
    """How fast a worker puts its rollout into the object store, and the learner joins them."""


@dataclass(frozen=True)
class Machines:
    """Where it runs. The learner is on a machine of its own if there are several."""

    name: str
    cores: int
    """Cores for workers on each machine, each as fast as the one that was measured."""
    machines: int
    link_bytes_a_s: float
    """Network link of the learner's machine; unused if there is only one machine."""
    learning_speed: float
    """How much faster than here the learner learns."""


@dataclass(frozen=True)
class Iteration:
    """Seconds of a meta-iteration, which do not overlap."""

    workers: int
    env_steps: int
    playing_s: float
    moving_s: float
    learning_s: float

    @property
    def collecting_s(self) -> float:
        """Until all rollouts are with the learner."""
        return self.playing_s + self.moving_s

    @property
    def whole_s(self) -> float:
        """From one meta-update to the next."""
        return self.collecting_s + self.learning_s


def iteration(costs: Costs, machines: Machines, workers: int, tasks: int) -> Iteration:
    """Return what a meta-iteration of so many tasks takes.

    A phase ends with its slowest worker. What moves over the learner's link or is joined there is
    counted one after the other, as if nothing overlapped.
    """
    parts = shares(tasks, costs.copies, workers)
    busy = len(parts)
    playing = max(costs.playing.of(part.stop - part.start) for part in parts)
    companies = [
        Company.of_few(part.start, part.stop - part.start, tasks, costs.copies) for part in parts
    ]
    acting = max(costs.acting.of(len(company.rows)) for company in companies)
    there = math.ceil(busy / machines.cores) if machines.machines > 1 else 0
    received = costs.received_bytes_a_task * tasks
    moved = costs.state_bytes * costs.phases * there
    if there:
        moved += costs.sent_bytes_a_task * tasks + received
    largest = max(part.stop - part.start for part in parts) / tasks
    copied = received * (1 + largest) / costs.copied_bytes_a_s
    return Iteration(
        workers,
        costs.env_steps_a_task * tasks,
        playing + acting,
        CALL_S * busy * costs.phases + moved / machines.link_bytes_a_s + copied,
        costs.learning.of(tasks) / machines.learning_speed,
    )


def efficiency(one: Iteration, many: Iteration) -> float:
    """Return which part of the workers' time to collect is as useful as that of one alone."""
    a_step = one.collecting_s / one.env_steps
    return a_step * many.env_steps / (many.workers * many.collecting_s)


def saturation(iterations: Sequence[Iteration]) -> Iteration | None:
    """Return the first iteration in which the learner works longer than the workers play."""
    return next((it for it in iterations if it.learning_s + it.moving_s > it.playing_s), None)
