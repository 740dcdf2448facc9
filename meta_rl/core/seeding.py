"""Randomness: one named generator a purpose, all from one seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meta_rl.core.types import Tasks


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose; purposes draw from streams that do not overlap."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def make_generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a seeded generator on a device."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, purpose))
    return generator


class TaskGenerators(torch.Generator):
    """A generator for each of M tasks, so that no task's noise depends on its company.

    It is itself a `torch.Generator`, so that agents need not know: those who draw their noise by
    `standard_normal`, as `Gaussian.sample` does, draw it task by task.
    """

    def __new__(cls, seeds: Sequence[int], device: torch.device) -> "TaskGenerators":
        """Make the generator that serves whoever draws for all tasks at once."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.manual_seed(seeds[0])
        # On the CPU, whatever the device: one copy a step is cheaper than a kernel a task.
        self.by_task = [torch.Generator().manual_seed(seed) for seed in seeds]


def standard_normal(
    shape: Sequence[int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normal noise, each task's from its own generator if there is one for each.

    Args:
        shape: The task axis M comes first.
    """
    if isinstance(generator, TaskGenerators):
        assert shape[0] == len(generator.by_task), "the first axis of noise is the tasks'"
        drawn = [torch.randn(shape[1:], generator=own, dtype=dtype) for own in generator.by_task]
        return torch.stack(drawn).to(device)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


class Streams:
    """The generators that a loop of rollouts draws from.

    `tasks` draws the meta-batches, `acting` the noise of actions (on the policy's device) and
    `env` one seed a rollout for the simulator.
    """

    def __init__(self, seed: int, device: torch.device, purpose: str = "train") -> None:
        self.tasks = make_generator(seed, f"{purpose}/tasks")
        self.acting = make_generator(seed, f"{purpose}/acting", device)
        self.env = make_generator(seed, f"{purpose}/env")

    def noise(self, tasks: Tasks) -> torch.Generator:
        """Return the source of the next rollout's actions."""
        return self.acting

    def env_seed(self) -> int:
        """Draw the simulator's seed for the next rollout."""
        return int(torch.randint(2**62, (), generator=self.env))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generators' states."""
        return {name: generator.get_state() for name, generator in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the states that `state_dict` returned."""
        for name, generator in vars(self).items():
            generator.set_state(state[name])


class TaskStreams:
    """What one rollout draws from if each task is to have a stream of its own.

    The noise depends on seed, purpose and the task's name and index alone: neither on the other
    tasks nor on how long their episodes are.
    """

    def __init__(self, seed: int, device: torch.device, purpose: str) -> None:
        self.seed, self.device, self.purpose = seed, device, purpose

    def noise(self, tasks: Tasks) -> torch.Generator:
        """Return fresh generators for the actions on each task."""
        seeds = [derive_seed(self.seed, f"{self.purpose}/{task.label}") for task in tasks]
        return TaskGenerators(seeds, self.device)

    def env_seed(self) -> int:
        """Return the simulator's seed."""
        return derive_seed(self.seed, f"{self.purpose}/env")
