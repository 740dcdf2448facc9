"""Randomness: one named generator a purpose, all from one seed."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from meta_rl.core.ranks import gathered, world
from meta_rl.core.types import Tasks

Shape: TypeAlias = Sequence[Any]
"""Sizes of axes: whole numbers, or the symbols that stand for them while torch exports."""


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose; purposes draw from streams that do not overlap."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def make_generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a seeded generator on a device."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, purpose))
    return generator


@contextlib.contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Let torch's global generator draw for one purpose, as modules do that initialize themselves.

    Afterwards it is as it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, purpose))
        yield


def drawn_seed(generator: torch.Generator) -> int:
    """Draw a seed."""
    return int(torch.randint(2**62, (), generator=generator))


def world_seeds(seed: int, tasks: Tasks, copies: int) -> list[int]:
    """Return a seed for each world, task by task, whatever other tasks there are.

    A task that is there twice goes on counting its copies.
    """
    seeds = []
    for task, repeat in zip(tasks, tasks.counted(), strict=True):
        for copy in range(repeat * copies, (repeat + 1) * copies):
            index = task.index % 2**63  # a goal of the user's own has -1
            entropy = [seed, index, copy, *task.name.encode()]
            seeds.append(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    return seeds


@runtime_checkable
class Noise(Protocol):
    """The chance in actions: it knows whose each number is, so that agents need not."""

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers; the task axis M comes first."""
        ...

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw numbers uniform in [0, 1); the task axis M comes first."""
        ...

    def latent(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers for what a policy supposes of its task, not for actions."""
        ...


class SharedNoise:
    """Noise of all tasks from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers."""
        return self._drawn(torch.randn, shape, dtype)

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw numbers uniform in [0, 1)."""
        return self._drawn(torch.rand, shape, dtype)

    def latent(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers."""
        return self.normal(shape, dtype)

    def _drawn(self, draw: Callable[..., Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        own = self.generator
        return draw(shape, generator=own, device=own.device, dtype=dtype)


class SharedOutNoise:
    """Noise of all tasks of a meta-batch from one generator, of which a process takes its own.

    The generators of several processes stay alike if all are asked as often, so that each task has
    the noise that it would have in a single process.

    Args:
        own: The process's rows of the meta-batch.
        count: Tasks of the whole meta-batch.
        axis: Axis of the tasks, or of whatever else is shared out.
        device: Where the numbers are wanted; without it, on the generator's device.
    """

    def __init__(
        self,
        generator: torch.Generator,
        own: slice | Int[Tensor, "B"],
        count: int,
        axis: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.generator = generator
        self._of_all = SharedNoise(generator)
        self._own_rows, self._count, self._axis = own, count, axis
        self._device = device or generator.device

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers for all tasks; return those of the process's own."""
        return self._own(self._of_all.normal, shape, dtype)

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw numbers uniform in [0, 1) for all tasks; return those of the process's own."""
        return self._own(self._of_all.uniform, shape, dtype)

    def latent(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers for all tasks; return those of the process's own."""
        return self.normal(shape, dtype)

    def _own(self, draw: Callable[..., Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        axis = self._axis
        drawn = draw((*shape[:axis], self._count, *shape[axis + 1 :]), dtype)
        return drawn[(slice(None),) * axis + (self._own_rows,)].to(self._device)


class TaskNoise:
    """Noise from a generator for each of M tasks, so that no task's depends on its company."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        # On the CPU, whatever the device: one copy a step is cheaper than a kernel a task.
        self.by_task = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers, task by task."""
        return self._drawn(torch.randn, shape, dtype)

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw numbers uniform in [0, 1), task by task."""
        return self._drawn(torch.rand, shape, dtype)

    def latent(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers, task by task."""
        return self.normal(shape, dtype)

    def _drawn(self, draw: Callable[..., Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        assert shape[0] == len(self.by_task), "the first axis of noise is the tasks'"
        rows = [draw(shape[1:], generator=own, dtype=dtype) for own in self.by_task]
        return torch.stack(rows).to(self.device)


class GivenNoise:
    """Numbers that the caller has drawn, standard normal, or zeros for the most likely action.

    They are for actions alone: what a policy supposes of its task is the most likely.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the numbers."""
        return self.numbers.to(dtype)

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the numbers' normal distribution function, which is uniform in (0, 1)."""
        uniform: Tensor = torch.special.ndtr(self.numbers.to(dtype))
        return uniform

    def latent(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return zeros."""
        return torch.zeros(shape, dtype=dtype, device=self.numbers.device)


class Streams:
    """The generators that a loop of rollouts draws from.

    `tasks` draws the meta-batches, `acting` the noise of actions (on the policy's device) and
    `env` one seed a rollout for the simulator.
    """

    def __init__(self, seed: int, device: torch.device, purpose: str = "train") -> None:
        self.tasks = make_generator(seed, f"{purpose}/tasks")
        self.acting = make_generator(seed, f"{purpose}/acting", device)
        self.env = make_generator(seed, f"{purpose}/env")

    def noise(self, tasks: Tasks) -> Noise:
        """Return the noise of the next rollout's actions."""
        ranks = world()
        if ranks.size == 1:
            return SharedNoise(self.acting)
        count = len(tasks) * ranks.size
        return SharedOutNoise(self.acting, ranks.share(count), count)

    def keep_alike(self, steps: int) -> int:
        """Let all ranks' noise go on as if each had drawn for as many steps as any of them.

        Args:
            steps: How often this rank has drawn in a rollout: its episodes may end earlier.

        Returns:
            The most steps of any rank.
        """
        if world().size == 1:
            return steps
        most, state = max(gathered((steps, self.acting.get_state())), key=lambda found: found[0])
        self.acting.set_state(state)
        return most

    def env_seed(self) -> int:
        """Draw the simulator's seed for the next rollout."""
        return drawn_seed(self.env)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generators' states."""
        return {name: generator.get_state() for name, generator in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the states that `state_dict` returned."""
        for name, generator in vars(self).items():
            generator.set_state(state[name])


class PartStreams:
    """What one rollout of some tasks of a meta-batch draws from, far from the `Streams` of the run.

    Args:
        state: Where the generators of the run's `Streams` are.
        own: The rows of the meta-batch that are played.
        count: Tasks of the whole meta-batch.
    """

    def __init__(
        self, state: Mapping[str, Tensor], device: torch.device, own: slice, count: int
    ) -> None:
        self.acting, self.env = torch.Generator(device), torch.Generator()
        self.acting.set_state(state["acting"])
        self.env.set_state(state["env"])
        self.own, self.count = own, count

    def noise(self, tasks: Tasks) -> Noise:
        """Return the noise of the rollout's actions."""
        return SharedOutNoise(self.acting, self.own, self.count)

    def env_seed(self) -> int:
        """Draw the simulator's seed, the same for all parts."""
        return drawn_seed(self.env)

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the generators are now."""
        return {"acting": self.acting.get_state(), "env": self.env.get_state()}


class TaskStreams:
    """What one rollout draws from if each task is to have a stream of its own.

    The noise depends on seed, purpose and the task's name and index alone: neither on the other
    tasks nor on how long their episodes are.
    """

    def __init__(self, seed: int, device: torch.device, purpose: str) -> None:
        self.seed, self.device, self.purpose = seed, device, purpose

    def noise(self, tasks: Tasks) -> Noise:
        """Return fresh noise for the actions on each task."""
        seeds = [derive_seed(self.seed, f"{self.purpose}/{task.label}") for task in tasks]
        return TaskNoise(seeds, self.device)

    def env_seed(self) -> int:
        """Return the simulator's seed."""
        return derive_seed(self.seed, f"{self.purpose}/env")
