"""Continual learning: training goes through a family's task names, one after the other."""

from collections.abc import Mapping
from typing import Any

import torch

from meta_rl.core.change import ChangeConfig
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import (
    Collector,
    EnvDistribution,
    Split,
    TaskDistribution,
    TaskEnv,
)
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import Tasks


class Stream:
    """A distribution whose training tasks are of one name after the other; its last name stays.

    In all else, such as the tasks that evaluation covers, it is the distribution it is made of.
    As Continual World (Wolczyk et al. 2021) does it, but no agent is told which task it is at.

    Raises:
        UserError: The family has one task name only.
    """

    def __init__(self, distribution: TaskDistribution, config: ChangeConfig) -> None:
        self._whole = distribution
        self.family, self.spec, self.config = distribution.family, distribution.spec, config
        tasks = distribution.tasks("train")
        self.names = tuple(dict.fromkeys(tasks.names))
        """The task names, in the order of the stream."""
        self.turn = int(config.number)
        """Meta-iterations on each name."""
        if len(self.names) < 2:
            raise UserError(
                f"change.every {config.every!r} goes through task names, but {self.family} has "
                f"{self.names[0]} alone; give episodes or steps, or a family with several names"
            )
        self._rows = {
            name: [row for row, other in enumerate(tasks.names) if other == name]
            for name in self.names
        }
        self._tasks = tasks

    @property
    def original(self) -> TaskDistribution:
        """The distribution that training goes through, with all that it can do beside."""
        return self._whole

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw tasks of all names, or, to train on, of the first."""
        if split != "train":
            return self._whole.sample(count, split, generator)
        return self.sample_at(0, count, generator)

    def name_at(self, meta_iteration: int) -> str:
        """Return whose turn it is at a meta-iteration."""
        return self.names[min(meta_iteration // self.turn, len(self.names) - 1)]

    def sample_at(self, meta_iteration: int, count: int, generator: torch.Generator) -> Tasks:
        """Draw the training tasks of a meta-iteration, without repetition."""
        name = self.name_at(meta_iteration)
        rows = self._rows[name]
        if not 1 <= count <= len(rows):
            raise UserError(
                f"meta_batch_size must be between 1 and {len(rows)}, the training tasks of {name}, "
                f"got {count}"
            )
        drawn = torch.randperm(len(rows), generator=generator)[:count].tolist()
        return self._tasks[[rows[place] for place in drawn]]

    def tasks(self, split: Split) -> Tasks:
        """Return the tasks of all names."""
        return self._whole.tasks(split)

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make the simulator."""
        return simulated(self._whole).make_env(device, workers)

    def make_collector(self, device: torch.device, workers: int) -> Collector:
        """Make what gathers experience."""
        return self._whole.make_collector(device, workers)

    def protocol(self) -> Mapping[str, Any]:
        """Return the distribution's own protocol: what is measured does not change."""
        return self._whole.protocol()


def simulated(distribution: TaskDistribution) -> EnvDistribution:
    """Return a family that has a simulator, or say that this one has none."""
    if not isinstance(distribution, EnvDistribution):
        raise UserError(f"the family {distribution.family} has no simulator to play in")
    return distribution


def fixed_pool(distribution: TaskDistribution, count: int | None, seed: int) -> Tasks | None:
    """Return the training tasks that a run has fixed, or None if it draws from the whole family."""
    if count is None:
        return None
    if isinstance(distribution, Stream):
        raise UserError(
            f"train_tasks {count} fixes tasks of all names, but change.every goes through one name "
            f"after the other; leave out one of them"
        )
    if getattr(distribution, "changes", None) is not None:
        raise UserError(
            f"train_tasks {count} fixes the run's tasks, but change.every turns them into any of "
            f"the family's; leave out one of them (--train-tasks None)"
        )
    return _sampled(distribution, count, make_generator(seed, "train/pool"))


def training_pool(
    distribution: TaskDistribution, meta_batch_size: int, train_tasks: int | None, seed: int
) -> Tasks | None:
    """Return `fixed_pool`, having refused meta-batches that cannot be drawn."""
    scratch = torch.Generator().manual_seed(0)
    _sampled(distribution, meta_batch_size, scratch)
    return fixed_pool(distribution, train_tasks, seed)


def sample_to_train(
    distribution: TaskDistribution,
    meta_iteration: int,
    count: int,
    trials: int,
    generator: torch.Generator,
    pool: Tasks | None = None,
) -> Tasks:
    """Draw the tasks of a meta-iteration, of a stream those of the name whose turn it is.

    Args:
        count: How many tasks to draw.
        trials: How often each is there, one after another.
        pool: The tasks to draw from, without repetition, if these are fixed for the run.
    """
    if pool is not None:
        tasks = pool[torch.randperm(len(pool), generator=generator)[:count].tolist()]
    elif isinstance(distribution, Stream):
        tasks = distribution.sample_at(meta_iteration, count, generator)
    else:
        tasks = _sampled(distribution, count, generator)
    return tasks if trials == 1 else tasks[[row for row in range(count) for _ in range(trials)]]


def _sampled(distribution: TaskDistribution, count: int, generator: torch.Generator) -> Tasks:
    """Draw so many training tasks, or raise a UserError: fewer would train silently."""
    tasks = distribution.sample(count, "train", generator)
    if len(tasks) != count:
        raise UserError(
            f"{count} training tasks were asked for, and {distribution.family} gave {len(tasks)}; "
            f"lower meta_batch_size or train_tasks, or mend the family's `sample`"
        )
    return tasks
