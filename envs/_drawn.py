"""What families share whose tasks are numbers drawn at will: fixed splits, fresh training tasks."""

import hashlib

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Split
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import Tasks
from meta_rl.rollouts.collector import SimulatedFamily

MOST_FIXED = 1_000_000
"""Fixed tasks that a split may have."""


class DrawnFamily(SimulatedFamily):
    """A family whose tasks are rows of random numbers.

    Training tasks are drawn anew for every meta-batch. Those of the other splits are fixed by a
    seed, and so are as many of the train split as of the test split, for evaluation. A fixed task
    is numbered; a fresh one has a hash of its numbers as index, above those of the splits.

    Args:
        name: The one task name of the family.
        test: Tasks of the test split.
        validation: Tasks of the validation split.
        seed: Seed of the fixed tasks.
        called: What the settings call tasks.
        stream: What names the fixed tasks' generators; without it, the family does.
    """

    family: str
    between_tasks = False
    """Whether what lies between the numbers of two tasks is a task, so that tasks can drift."""

    def __init__(
        self,
        name: str,
        test: int,
        validation: int,
        seed: int,
        called: str = "tasks",
        stream: str = "",
    ) -> None:
        check_fixed(f"test_{called}", test)
        check_fixed(f"validation_{called}", validation)
        self._name, self._seed, self._called = name, seed, called
        self._stream = stream or self.family
        self._first_fresh_index = 2 * test + validation
        self._places: dict[Split, range] = {
            "test": range(test),
            "train": range(test, 2 * test),
            "validation": range(2 * test, self._first_fresh_index),
        }

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw the numbers of some tasks."""
        raise NotImplementedError(f"{type(self).__name__} must say how its tasks are drawn")

    def draw_to_train(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw the numbers of fresh training tasks: as all others, unless a family differs."""
        return self.draw(count, generator)

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw fresh tasks to train on, or some of the fixed ones of another split."""
        check_count(count)
        if split == "train":
            params = self.draw_to_train(count, generator)
            index = [self._first_fresh_index + hash_of(row) for row in params]
            return Tasks(self.family, (self._name,) * count, torch.tensor(index), params)
        fixed = self._places[split]
        if count > len(fixed):
            raise UserError(
                f"{count} tasks are more than the {len(fixed)} {split} {self._called} of "
                f"{self.family}; ask for fewer or raise envs.{split}_{self._called}"
            )
        order = torch.randperm(len(fixed), generator=generator)[:count]
        return self.tasks(split)[order.tolist()]

    def tasks(self, split: Split) -> Tasks:
        """Return the fixed tasks of a split; of the train split as many as of the test split."""
        index = torch.tensor(self._places[split])
        generator = make_generator(self._seed, f"{self._stream}/{split}")
        params = self.draw(len(index), generator)
        return Tasks(self.family, (self._name,) * len(index), index, params)


def check_fixed(setting: str, count: int) -> None:
    """Refuse so many fixed tasks that to draw them takes minutes, or all memory."""
    if count > MOST_FIXED:
        raise UserError(f"envs.{setting} must be at most {MOST_FIXED}, got {count}")


def check_count(count: int) -> None:
    """Refuse to draw no task."""
    if count < 1:
        raise UserError(f"meta_batch_size must be at least 1, got {count}")


def evenly(two: Tasks, count: int, generator: torch.Generator) -> Tasks:
    """Draw some of two tasks, each as often as the other, or once more."""
    check_count(count)
    extra = int(torch.randint(2, (), generator=generator)) if count % 2 else 0
    second = count // 2 + extra
    return two[[0] * (count - second) + [1] * second]


def of_each_copy(numbers: Shaped[Tensor, "M ..."], copies: int) -> Shaped[Tensor, "M N ..."]:
    """Return numbers of tasks for each of their worlds, which may change one by one."""
    return numbers.unsqueeze(1).repeat_interleave(copies, dim=1)


def hash_of(row: Float64[Tensor, "P"]) -> int:
    """Return 48 bits of a task's numbers, so that JSON's numbers hold an index made of them."""
    return int.from_bytes(hashlib.blake2b(row.numpy().tobytes(), digest_size=6).digest(), "little")
