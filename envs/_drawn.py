"""What families share whose tasks are numbers drawn at will: fixed splits, fresh training tasks."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Split
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import Tasks
from meta_rl.rollouts.collector import SimulatedFamily


@runtime_checkable
class SplitConfig(Protocol):
    """What a family's settings say of its splits."""

    @property
    def test_tasks(self) -> int:
        """Tasks of the test split, and of the train split that evaluation covers."""
        ...

    @property
    def validation_tasks(self) -> int:
        """Tasks of the validation split."""
        ...

    @property
    def task_seed(self) -> int:
        """Seed of the fixed tasks."""
        ...


class DrawnFamily(SimulatedFamily):
    """A family whose tasks are rows of random numbers.

    Training tasks are drawn anew for every meta-batch. Test and validation tasks are fixed by
    `task_seed`. A fixed task is numbered; a fresh one has a hash of its numbers as index, above
    those of the splits.

    Args:
        name: The one task name of the family.
    """

    family: str

    def __init__(self, config: SplitConfig, name: str) -> None:
        self._splits, self._name = config, name
        held_out = config.test_tasks
        self._first_fresh_index = 2 * held_out + config.validation_tasks
        self._places: dict[Split, range] = {
            "test": range(held_out),
            "train": range(held_out, 2 * held_out),
            "validation": range(2 * held_out, self._first_fresh_index),
        }

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw the numbers of some tasks."""
        raise NotImplementedError(f"{type(self).__name__} must say how its tasks are drawn")

    def draw_to_train(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw the numbers of fresh training tasks: as all others, unless a family differs."""
        return self.draw(count, generator)

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw fresh tasks to train on, or some of the fixed ones of another split."""
        if split == "train":
            params = self.draw_to_train(count, generator)
            index = [self._first_fresh_index + _hash(row) for row in params]
            return Tasks(self.family, (self._name,) * count, torch.tensor(index), params)
        fixed = self._places[split]
        if count > len(fixed):
            raise UserError(
                f"{count} tasks are more than the {len(fixed)} {split} tasks of {self.family}; "
                f"ask for fewer or raise envs.{split}_tasks"
            )
        order = torch.randperm(len(fixed), generator=generator)[:count]
        return self.tasks(split)[order.tolist()]

    def tasks(self, split: Split) -> Tasks:
        """Return the fixed tasks of a split; of the train split as many as of the test split."""
        index = torch.tensor(self._places[split])
        generator = make_generator(self._splits.task_seed, f"{self.family}/{split}")
        params = self.draw(len(index), generator)
        return Tasks(self.family, (self._name,) * len(index), index, params)

    def held_out(self) -> Mapping[str, Any]:
        """Return what of a protocol is about the held-out tasks."""
        return {"test_tasks": self._splits.test_tasks, "task_seed": self._splits.task_seed}


def _hash(row: Float64[Tensor, "P"]) -> int:
    """Return 48 bits of a task's numbers, so that JSON's numbers hold an index made of them."""
    return int.from_bytes(hashlib.blake2b(row.numpy().tobytes(), digest_size=6).digest(), "little")
