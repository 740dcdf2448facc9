"""Tasks that change under the policy: when they do, into what, and how long each world has lived.

A task lives on a time of its own, in episodes or steps, which runs on over the phases of an
adaptation. All worlds of a task that have lived as long are at the same task, whatever they did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from meta_rl.core.change import ChangeConfig
from meta_rl.core.continual import Stream, simulated
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import (
    ChangingCollector,
    ChangingTaskEnv,
    Collector,
    Split,
    TaskDistribution,
    TaskEnv,
)
from meta_rl.core.seeding import derive_seed, make_generator
from meta_rl.core.types import Phase, Rollout, Task, Tasks

CHANGED = "changed"
"""Metric of a step: 1 if its world's task has become another since the step before."""
REDRAWS = 20
"""Draws of another task until one differs: some families have two tasks."""


class Changing:
    """A distribution whose tasks change under the policy; in all else it is the one it is made of.

    Raises:
        UserError: Its tasks cannot change as they should.
    """

    def __init__(self, distribution: TaskDistribution, config: ChangeConfig) -> None:
        self._still = distribution
        self.family, self.spec = distribution.family, distribution.spec
        self.changes = Changes(distribution, config)

    @property
    def original(self) -> TaskDistribution:
        """The distribution whose tasks change, with all that it can do beside."""
        return self._still

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw tasks as they are before they change."""
        return self._still.sample(count, split, generator)

    def tasks(self, split: Split) -> Tasks:
        """Return a split's tasks as they are before they change."""
        return self._still.tasks(split)

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make the simulator."""
        return simulated(self._still).make_env(device, workers)

    def make_collector(self, device: torch.device, workers: int) -> Collector:
        """Make a collector of rollouts in which tasks change."""
        collector = self._still.make_collector(device, workers)
        if not isinstance(collector, ChangingCollector):
            collector.close()
            raise UserError(
                f"tasks of {self.family} cannot change: it is not played in a simulator; leave out "
                f"change.every"
            )
        try:
            self.changes.check(collector.changes_within_episodes)
        except UserError:
            collector.close()
            raise
        collector.changes = self.changes
        return collector

    def protocol(self) -> Mapping[str, Any]:
        """Return the distribution's own protocol, and how its tasks change."""
        config = self.changes.config
        drift = {"drift": config.drift} if config.how == "drift" else {}
        change = {"every": config.every, "how": config.how, **drift}
        return {**self._still.protocol(), "change": change}


def original(distribution: TaskDistribution) -> TaskDistribution:
    """Return the family's own distribution, whatever is made of it."""
    while isinstance(distribution, Changing | Stream):
        distribution = distribution.original
    return distribution


def changes_of(distribution: TaskDistribution) -> "Changes | None":
    """Return how the tasks of a distribution change, or None if they stay."""
    found: Changes | None = getattr(distribution, "changes", None)
    return found


class Changes:
    """When the tasks of a distribution change, and into what.

    A change depends on the life's seed, the task that it began with and how many changes came
    before: not on what other tasks there are, nor on what any world does.
    """

    def __init__(self, distribution: TaskDistribution, config: ChangeConfig) -> None:
        self.distribution, self.config = distribution, config
        self.horizon = distribution.spec.horizon
        if config.how == "drift" and not getattr(distribution, "between_tasks", False):
            raise UserError(
                f"tasks of {distribution.family} cannot drift: what lies between two of them is "
                f"no task; use change.how redraw or sequence"
            )
        if config.how == "sequence":
            for split in ("train", "test"):
                self.sequence(split)  # what a family refuses, it refuses now

    def check(self, within_episodes: bool) -> None:
        """Refuse changes that a simulator cannot make when they are due.

        Args:
            within_episodes: Whether it can change a task while an episode goes on.
        """
        mean_steps = self.config.mean_steps
        if mean_steps is None or mean_steps >= self.horizon:
            return
        family = self.distribution.family
        what = (
            f"change.every {self.config.every!r} changes tasks of {family} within episodes of "
            f"{self.horizon} steps"
        )
        if not within_episodes:
            raise UserError(
                f"{what}, but this simulator can only between them; give episodes, at least "
                f"{self.horizon} steps, or another envs.simulator"
            )
        names = dict.fromkeys(self.distribution.tasks("train").names)
        if len(names) > 1:
            raise UserError(
                f"{what}, but it has {len(names)} task names, which can only change between them; "
                f"give episodes, or at least {self.horizon} steps"
            )

    def begin(self, tasks: Tasks, copies: int, seed: int, shared: bool, anywhere: bool) -> "Life":
        """Begin the lives of M tasks' worlds, N copies each.

        Args:
            shared: Whether copies learn together, and so stand for one world: see `Life`.
            anywhere: Begin anywhere between two changes, rather than just after one.
        """
        began = torch.zeros(len(tasks), copies, dtype=torch.long)
        return Life(Course(self, tasks, seed, anywhere), began, shared)

    def life(self, told: Mapping[str, Any]) -> "Life":
        """Return the life that another process has told of."""
        course = Course(self, told["tasks"], told["seed"], told["anywhere"])
        return Life(course, told["time"], told["shared"], told["still"])

    def split_of(self, task: Task) -> Split:
        """Return the split that a task is of, and changes within."""
        for split, labels in self._held_out.items():
            if task.label in labels:
                return split
        return "train"

    def sequence(self, split: Split) -> tuple[Task, ...]:
        """Return the tasks of a split in the order of `sequence`: the names in turn."""
        if split not in self._sequences:
            places: dict[str, int] = {}
            numbered = []
            names = list(dict.fromkeys(self.distribution.tasks(split).names))
            for task in self.distribution.tasks(split):
                turn = places[task.name] = places.get(task.name, -1) + 1
                numbered.append((turn, names.index(task.name), task))
            ordered = sorted(numbered, key=lambda entry: entry[:2])
            self._sequences[split] = tuple(task for _, _, task in ordered)
        return self._sequences[split]

    def other(self, task: Task, split: Split, seed: int, same_name: bool = False) -> Task:
        """Draw a task of the split that differs from this one, if there is any."""
        generator = make_generator(seed, "change")
        drawn = task
        for _ in range(REDRAWS):
            (drawn,) = self.distribution.sample(1, split, generator)
            differs = (drawn.name, drawn.params) != (task.name, task.params)
            if differs and (drawn.name == task.name or not same_name):
                break
        return drawn

    @cached_property
    def _held_out(self) -> dict[Split, set[str]]:
        splits: tuple[Split, ...] = ("test", "validation")
        return {split: {task.label for task in self.distribution.tasks(split)} for split in splits}

    @cached_property
    def _sequences(self) -> dict[Split, tuple[Task, ...]]:
        return {}


class Course:
    """What M tasks become, and when: made as far as it is asked for.

    Args:
        anywhere: Begin anywhere between two changes.
    """

    def __init__(self, changes: Changes, tasks: Tasks, seed: int, anywhere: bool) -> None:
        self.changes, self.tasks, self.seed, self.anywhere = changes, tasks, seed, anywhere
        self._became = [[task] for task in tasks]
        self._turns = [[task] for task in tasks]
        # One that is there twice has two lives.
        self._keys = [
            f"{task.label}/{repeat}" for task, repeat in zip(tasks, tasks.counted(), strict=True)
        ]
        self._random = [np.random.default_rng(derive_seed(seed, f"when/{k}")) for k in self._keys]
        config = changes.config
        if config.at_random or not anywhere:
            first = [self._gap(row) for row in range(len(tasks))]
        else:
            first = [1 + int(random.integers(int(config.number))) for random in self._random]
        self._times = [[when] for when in first]
        self._table: Int[Tensor, "M K"] | None = None
        """The times as a tensor, until there are more: it is asked at every step."""

    def changes_by(self, time: Int[Tensor, "M N"]) -> Int[Tensor, "M N"]:
        """Return how often each task changes in the first so many episodes or steps of a life."""
        known = self._table
        for row, until in enumerate(time.amax(1).tolist()):
            while self._times[row][-1] <= until:
                self._times[row].append(self._times[row][-1] + self._gap(row))
                known = None
        if known is None:
            longest = max(map(len, self._times))
            never = torch.iinfo(torch.long).max
            known = torch.tensor([row + [never] * (longest - len(row)) for row in self._times])
            self._table = known
        return torch.searchsorted(known, time.contiguous(), right=True)

    def task(self, row: int, number: int) -> Task:
        """Return what a task is after so many changes."""
        became = self._became[row]
        while len(became) <= number:
            became.append(self._next(row))
        return became[number]

    def length(self, phase: Phase) -> int:
        """Return the time that one copy's episodes take; one that ends early counts as whole."""
        in_steps = self.changes.config.in_steps
        return phase.episodes * (self.changes.horizon if in_steps else 1)

    def _gap(self, row: int) -> int:
        config = self.changes.config
        if config.at_random:
            return int(self._random[row].geometric(config.number))
        return int(config.number)

    def _next(self, row: int) -> Task:
        """Return what a task becomes next."""
        changes, became = self.changes, self._became[row]
        began, how = became[0], changes.config.how
        split = changes.split_of(began)
        if how == "sequence":
            order = changes.sequence(split)
            places = [task.label for task in order]
            start = places.index(began.label) if began.label in places else -1
            return order[(start + len(became)) % len(order)]
        if how == "redraw":
            seed = derive_seed(self.seed, f"into/{self._keys[row]}/{len(became)}")
            return changes.other(became[-1], split, seed)
        leg, step = divmod(len(became), changes.config.changes_of_a_leg)
        from_, towards = self._turn(row, leg), self._turn(row, leg + 1)
        if step == 0:
            return from_
        way = step / changes.config.changes_of_a_leg
        params = np.array(from_.params) * (1 - way) + np.array(towards.params) * way
        return replace(from_, index=-1, params=tuple(params.tolist()))

    def _turn(self, row: int, number: int) -> Task:
        """Return where a drifting task turns for the so-manieth time; first where it begins."""
        turns = self._turns[row]
        while len(turns) <= number:
            seed = derive_seed(self.seed, f"towards/{self._keys[row]}/{len(turns)}")
            split = self.changes.split_of(turns[0])
            turns.append(self.changes.other(turns[-1], split, seed, same_name=True))
        return turns[number]


@dataclass(frozen=True)
class Life:
    """How long the worlds of M tasks have lived when a rollout begins, N copies each.

    Copies that learn together stand for one world that would play one copy's episodes after the
    other's, so their times begin one after the other. Other copies are lives of their own.
    """

    course: Course
    time: Int[Tensor, "M N"]
    """In the unit of the changes."""
    shared: bool
    still: bool = False
    """Whether time stands still, so that a measurement shows the tasks as they are."""

    @property
    def number(self) -> Int[Tensor, "M N"]:
        """How often each world's task has changed."""
        return self.course.changes_by(self.time)

    def told(self) -> dict[str, Any]:
        """Return the life as plain data, for a process whose tasks change by the same rules."""
        course = self.course
        began = {"tasks": course.tasks, "seed": course.seed, "anywhere": course.anywhere}
        return {**began, "time": self.time, "shared": self.shared, "still": self.still}

    def standing_still(self, copies: int) -> "Life":
        """Return this moment, for that many copies."""
        time = self.time if self.time.shape[1] == copies else self.time[:, :1].expand(-1, copies)
        return replace(self, time=time.contiguous(), still=True)

    def after(self, played: Rollout, phase: Phase) -> "Life":
        """Return the life after a rollout of all copies."""
        if self.shared and self.time.shape[1] > 1:
            return replace(self, time=self.time + self.course.length(phase) * self.time.shape[1])
        lived = played.valid if self.course.changes.config.in_steps else played.last
        return replace(self, time=self.time + lived.sum(0).cpu())


def changing_env(env: TaskEnv) -> ChangingTaskEnv:
    """Return a simulator whose tasks can change, or say that its cannot."""
    if not isinstance(env, ChangingTaskEnv):
        raise UserError(
            f"the simulator {type(env).__name__} cannot change tasks: give it change(worlds, "
            f"tasks) and changes_within_episodes, or leave out change.every"
        )
    return env


class Clock:
    """Tells, step by step of one rollout, which worlds' tasks change and into what.

    Args:
        life: When the rollout begins.
    """

    def __init__(self, life: Life, phase: Phase, env: TaskEnv) -> None:
        self._life, self._env, self._course = life, changing_env(env), life.course
        self._in_steps = life.course.changes.config.in_steps
        self._time = life.time.clone()
        if life.shared and not life.still:
            self._time += torch.arange(life.time.shape[1]) * life.course.length(phase)
        self._number = torch.zeros_like(self._time)
        """How often the task that each world plays has changed."""

    def begin(self) -> tuple[bool, Bool[Tensor, "M N"]]:
        """Put worlds whose lives began before the last change into their tasks.

        Returns:
            Whether there are any, and which tasks change at this very moment.
        """
        moved = self._change(torch.ones_like(self._time, dtype=torch.bool))
        now = self._course.changes_by(self._time) > self._course.changes_by(self._time - 1)
        return bool(moved.any()), now & (not self._life.still)

    def tick(self, ended: Bool[Tensor, "M N"]) -> Bool[Tensor, "M N"]:
        """Let a step pass, with which some worlds' episodes ended; return whose tasks change."""
        between = ended.cpu()
        if self._life.still or not (self._in_steps or between.any()):
            return torch.zeros_like(ended)
        self._time += 1 if self._in_steps else between.long()
        return self._change(between).to(ended.device)

    def _change(self, between: Bool[Tensor, "M N"]) -> Bool[Tensor, "M N"]:
        """Change the tasks that are due, of other models and slower simulators between episodes."""
        due = self._course.changes_by(self._time)
        if not self._env.changes_within_episodes:
            due = torch.where(between, due, self._number)
        changed = due != self._number
        worlds, became = [], []
        for row, copy in changed.nonzero().tolist():
            task = self._course.task(row, int(due[row, copy]))
            now = self._course.task(row, int(self._number[row, copy]))
            if task.name != now.name and not between[row, copy]:
                changed[row, copy] = False
                continue
            worlds.append(row * due.shape[1] + copy)
            became.append(task)
        self._number = torch.where(changed, due, self._number)
        if worlds:
            self._env.change(worlds, Tasks.stack(became))
        return changed
