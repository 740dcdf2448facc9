"""What travels between a run and its Ray workers: plain data, with arrays in place of tensors.

Ray reads arrays from its shared memory without a copy; tensors it would pickle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.protocols import Noises
from meta_rl.core.seeding import PartStreams, Streams, TaskStreams, drawn_seed
from meta_rl.core.types import Examples, Experience, Phase, Rollout, Tasks

Arrays: TypeAlias = Any
"""A pytree of arrays and plain values."""


def to_arrays(tree: Any) -> Arrays:
    """Return a pytree with arrays in place of its tensors."""
    return pytree.tree_map_only(Tensor, lambda x: x.detach().cpu().numpy(), tree)


def to_tensors(tree: Arrays, device: torch.device) -> Any:
    """Return a pytree with tensors in torch's own memory in place of its arrays."""
    return pytree.tree_map_only(np.ndarray, lambda x: torch.tensor(x, device=device), tree)


def size_of(tree: Arrays) -> int:
    """Return the bytes of a pytree's arrays."""
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(tree) if isinstance(leaf, np.ndarray))


def columns_of(experience: Experience) -> Arrays:
    """Return experience as arrays by name."""
    return to_arrays(vars(experience))


def experience_of(columns: Mapping[str, Any]) -> Experience:
    """Return the experience that has these columns, as tensors."""
    return Rollout(**columns) if "reward" in columns else Examples(**columns)


@dataclass(frozen=True)
class Job:
    """Tasks to be played through a phase, and all that a worker must know for it.

    Arrays have the tasks' axis M first in the context, and second in `previous`.
    """

    tasks: Tasks
    first: int
    """Row of the first task in the meta-batch."""
    count: int
    """Tasks of the whole meta-batch."""
    copies: int
    phase: Phase
    chance: "TaskStreams | Mapping[str, Any]"
    """Each task's own streams, or where the generators of all tasks are."""
    context: Arrays
    previous: Mapping[str, Any] | None
    """Columns of the experience that this one continues."""
    deterministic: bool
    life: Mapping[str, Any] | None
    """How long the worlds have lived, if their tasks change, as `Life.told` says it."""

    @property
    def rows(self) -> slice:
        """The rows of the meta-batch that are played."""
        return slice(self.first, self.first + len(self.tasks))

    @property
    def env_seed(self) -> int:
        """The simulator's seed."""
        if isinstance(self.chance, TaskStreams):
            return self.chance.env_seed()
        env = torch.Generator()
        env.set_state(torch.from_numpy(self.chance["env"].copy()))
        return drawn_seed(env)

    def part(self, which: slice) -> "Job":
        """Return the job for some of its tasks."""
        life = self.life
        if life is not None:
            life = {**life, "tasks": life["tasks"].part(which), "time": life["time"][which]}
        return replace(
            self,
            life=life,
            tasks=self.tasks.part(which),
            first=self.first + which.start,
            context=pytree.tree_map_only(np.ndarray, lambda x: x[which], self.context),
            previous=pytree.tree_map_only(np.ndarray, lambda x: x[:, which], self.previous),
        )

    def streams(self, device: torch.device) -> PartStreams | TaskStreams:
        """Return what the job's rollout draws from, on the worker's device."""
        if isinstance(self.chance, TaskStreams):
            return TaskStreams(self.chance.seed, device, self.chance.purpose)
        # Generators on every device keep their states on the CPU.
        state = to_tensors(self.chance, torch.device("cpu"))
        return PartStreams(state, device, self.rows, self.count)


def chance_of(streams: Noises) -> TaskStreams | Arrays:
    """Return what a job must know of where chance comes from."""
    if isinstance(streams, TaskStreams):
        return streams
    assert isinstance(streams, Streams), "a part's streams are not shared out again"
    return to_arrays({"acting": streams.acting.get_state(), "env": streams.env.get_state()})


@dataclass(frozen=True)
class Played:
    """What a worker gives back: the columns of its experience, and what has moved."""

    columns: Mapping[str, Any]
    context: Arrays
    chance: Arrays
    """Where the generators of all tasks are now; None if each task has its own."""
    env_steps: int
    acted_for: int
    """Tasks that the policy acted for, those included that stood in for others."""

    @property
    def steps(self) -> int:
        """How many steps it took, of the world that took most (T)."""
        return next(len(column) for column in self.columns.values())

    @property
    def broken(self) -> bool:
        """Whether the rollout ended at an action that is not finite."""
        action = self.columns.get("action")
        return action is not None and not np.isfinite(action[-1]).all()


@dataclass(frozen=True)
class Failed:
    """What a worker gives back if it could not play: the traceback."""

    traceback: str
