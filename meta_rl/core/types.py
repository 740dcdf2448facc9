"""The data that flows through the platform.

Axis letters: **T** steps in order, **M** tasks in the meta-batch, **N** parallel copies of each
task's environment, **O** observation, **A** action, **P** task parameters. Storage is time-major,
`(T, M, N, ...)`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.errors import UserError
from meta_rl.core.spaces import (
    Space,
    bounds,
    check_action_space,
    check_observation_space,
    flat_size,
)

Params: TypeAlias = dict[str, Tensor]
"""A module's parameters by name; a leading axis M makes them one set for each task."""

Metrics: TypeAlias = dict[str, Tensor]
"""Named 0-d tensors. They stay on their device until the trainer fetches all of them at once."""

Context: TypeAlias = Any
"""What an agent knows of the tasks at hand: a pytree of tensors, each with leading axis M."""

Picture: TypeAlias = UInt8[np.ndarray, "height width 3"]
"""Red, green and blue of each pixel, from the upper left one."""


@dataclass(frozen=True)
class Task:
    """One task of a family: `index` tells the tasks of one name apart and never changes.

    `params` hold all that a simulator needs to become this task (a goal position, say); shorter
    ones are padded with zeros to the family's longest.
    """

    family: str
    name: str
    index: int
    params: tuple[float, ...]

    @property
    def label(self) -> str:
        """The task's name with its index, as results and errors print it."""
        return f"{self.name}:{self.index}"


@dataclass(frozen=True)
class Tasks:
    """M tasks of one family, stacked: plain data that no simulator has seen."""

    family: str
    names: tuple[str, ...]
    index: Int[Tensor, "M"]
    params: Float64[Tensor, "M P"]
    repeats: tuple[int, ...] = ()
    """How often each task came before in the meta-batch that these are a part of; empty if they are
    no part. A task that is there twice has chance of its own each time."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: slice | Sequence[int]) -> "Tasks":
        rows = range(len(self))[which] if isinstance(which, slice) else which
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            index=self.index[list(rows)],
            params=self.params[list(rows)],
            repeats=tuple(self.repeats[row] for row in rows) if self.repeats else (),
        )

    def part(self, which: slice) -> "Tasks":
        """Return some of the tasks, which remember how often each came before in all of them."""
        return replace(self, repeats=tuple(self.counted()))[which]

    def counted(self) -> list[int]:
        """Return how often each row's task came before it."""
        if self.repeats:
            return list(self.repeats)
        seen: Counter[tuple[str, int]] = Counter()
        before = []
        for key in zip(self.names, self.index.tolist(), strict=True):
            before.append(seen[key])
            seen[key] += 1
        return before

    def __iter__(self) -> Iterator[Task]:
        for name, index, params in zip(
            self.names, self.index.tolist(), self.params.tolist(), strict=True
        ):
            yield Task(self.family, name, index, tuple(params))

    @classmethod
    def stack(cls, tasks: Sequence[Task]) -> "Tasks":
        """Stack single tasks of one family."""
        return cls(
            family=tasks[0].family,
            names=tuple(task.name for task in tasks),
            index=torch.tensor([task.index for task in tasks]),
            params=torch.tensor([task.params for task in tasks], dtype=torch.float64),
        )


@dataclass(frozen=True)
class Step:
    """What one simultaneous step of all worlds brought.

    `next_obs` is the true successor, never the observation after a reset. `metrics` holds what
    else the simulator reports a step, such as `success`.
    """

    next_obs: Float[Tensor, "M N O"]
    reward: Float[Tensor, "M N"]
    terminated: Bool[Tensor, "M N"]
    truncated: Bool[Tensor, "M N"]
    metrics: Mapping[str, Float[Tensor, "M N"]]


@dataclass(frozen=True)
class TimeStep:
    """All that an agent may look at when it acts.

    `prev_action` and `prev_reward` are zero before anything was done on a task, and reach across
    the episodes of one trial. `first` marks the first step of an episode. `valid` is false on
    padding: the world has finished its episodes and waits for the others.
    """

    obs: Float[Tensor, "*T M N O"]
    prev_action: Float[Tensor, "*T M N A"]
    prev_reward: Float[Tensor, "*T M N"]
    first: Bool[Tensor, "*T M N"]
    valid: Bool[Tensor, "*T M N"]

    def at(self, t: int) -> "TimeStep":
        """Return one of T steps; of a rollout, what the agent looked at in it."""
        return TimeStep(**{field.name: getattr(self, field.name)[t] for field in fields(TimeStep)})


@dataclass(frozen=True)
class Rollout(TimeStep):
    """T steps of M tasks, N copies each, exactly as they happened; nothing derived is stored.

    `action` is what the policy drew; a simulator may clip it to its bounds. `log_prob` is its
    joint log-probability (summed over action dimensions) under the policy that drew it.
    """

    action: Float[Tensor, "T M N A"]
    log_prob: Float[Tensor, "T M N"]
    reward: Float[Tensor, "T M N"]
    terminated: Bool[Tensor, "T M N"]
    truncated: Bool[Tensor, "T M N"]
    next_obs: Float[Tensor, "T M N O"]
    metrics: Mapping[str, Float[Tensor, "T M N"]]

    @property
    def last(self) -> Bool[Tensor, "T M N"]:
        """Where an episode ends, for whichever reason."""
        return self.valid & (self.terminated | self.truncated)

    def masked(self) -> "Rollout":
        """Return the rollout with zeros where padding may hold anything, also NaN."""

        def mask(column: Tensor) -> Tensor:
            valid = self.valid.view(*self.valid.shape, *[1] * (column.dim() - self.valid.dim()))
            return torch.where(valid, column, torch.zeros_like(column))

        return map_tensors(mask, self)

    @staticmethod
    def concatenate(rollouts: Sequence["Rollout"]) -> "Rollout":
        """Join rollouts of the same worlds along time."""
        return _joined(rollouts, dim=0)

    def padded(self, steps: int) -> "Rollout":
        """Return a rollout of at least so many steps; those beyond its own are padding."""
        if steps <= len(self.valid):
            return self

        def pad(column: Tensor) -> Tensor:
            return torch.cat([column, column.new_zeros(steps - len(column), *column.shape[1:])])

        return map_tensors(pad, self)


@dataclass(frozen=True)
class Examples:
    """T examples of M supervised tasks, N draws of each, with what the agent answered.

    `metrics` holds what the answers are judged by, such as `loss` and `accuracy`.
    """

    inputs: Float[Tensor, "T M N O"]
    targets: Float[Tensor, "T M N A"]
    answers: Float[Tensor, "T M N A"]
    metrics: Mapping[str, Float[Tensor, "T M N"]]


Experience: TypeAlias = Rollout | Examples
"""What a family gives to learn from."""

DataclassT = TypeVar("DataclassT")


def map_tensors(function: Callable[[Tensor], Tensor], data: DataclassT) -> DataclassT:
    """Return a copy of a dataclass with a function applied to each tensor in it."""
    changed: dict[str, Any] = {}
    for field in fields(data):  # type: ignore[arg-type]
        value = getattr(data, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = function(value)
        elif isinstance(value, Mapping):
            changed[field.name] = {name: function(tensor) for name, tensor in value.items()}
    return replace(data, **changed)  # type: ignore[type-var]


def all_finite(tree: Any) -> bool:
    """Return whether every floating-point tensor in a pytree is finite, in one transfer."""
    leaves = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    checks = [torch.isfinite(leaf).all() for leaf in leaves if leaf.is_floating_point()]
    if not checks:
        return True
    return bool(torch.stack([check.to(checks[0].device) for check in checks]).all())


def _joined(parts: Sequence[DataclassT], dim: int) -> DataclassT:
    """Join experience along time, the first axis, or along the tasks' axis, the second."""
    joined: dict[str, Any] = {}
    for field in fields(parts[0]):  # type: ignore[arg-type]
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Mapping):
            joined[field.name] = {
                name: torch.cat([each[name] for each in values], dim) for name in values[0]
            }
        else:
            joined[field.name] = torch.cat(values, dim)
    return replace(parts[0], **joined)  # type: ignore[type-var]


@dataclass(frozen=True)
class Score:
    """What a family judges episodes by, one number for each."""

    name: str
    """As files of results call it."""
    label: str
    """As logs and tables call it."""
    quantity: str
    """The metric of every step that it is made of, or `reward`."""
    over_episode: Literal["sum", "any", "mean"]
    """What of the steps' numbers: their sum, whether any is above 0, or their mean."""
    higher_is_better: bool = True


RETURN = Score("episode_return", "return", "reward", "sum")
SUCCESS = Score("success", "success", "success", "any")


@dataclass(frozen=True)
class EnvSpec:
    """What an agent must know of its environments to be built, as plain data.

    Agents see an observation as a row of `observation_size` numbers and give an action as one of
    `action_size`: `core.spaces` tells how values of other spaces than a Box lie in them.
    """

    observation_space: Space
    action_space: Space
    horizon: int
    """Most steps of one episode."""
    family: str = ""
    """The family's name in the catalog, by which oracle controls find its expert."""
    metrics: tuple[str, ...] = ()
    """What the simulator reports every step beside the reward, e.g. `("success",)`."""
    scores: tuple[Score, ...] = (RETURN,)
    """What evaluation measures; the first decides which agent is better, the next where it ties."""

    def __post_init__(self) -> None:
        where = f"the family {self.family}" if self.family else "the environment"
        check_observation_space(self.observation_space, where)
        check_action_space(self.action_space, where)

    @classmethod
    def box(
        cls,
        observation_size: int,
        action_low: Sequence[float],
        action_high: Sequence[float],
        horizon: int,
        family: str = "",
        metrics: tuple[str, ...] = (),
    ) -> "EnvSpec":
        """A spec of plain vectors; episodes are judged by success, if it is a metric, and return.

        Args:
            action_low: Least value of each action dimension.
            action_high: Largest value of each.
        """
        return cls(
            spaces.Box(-np.inf, np.inf, (observation_size,), np.float32),
            spaces.Box(np.array(action_low, np.float32), np.array(action_high, np.float32)),
            horizon,
            family,
            metrics,
            (SUCCESS, RETURN) if "success" in metrics else (RETURN,),
        )

    @property
    def observation_size(self) -> int:
        """Numbers of an observation (O)."""
        return flat_size(self.observation_space)

    @property
    def action_size(self) -> int:
        """Numbers of an action (A)."""
        return flat_size(self.action_space)

    @property
    def action_bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Least and largest numbers of an action."""
        return bounds(self.action_space)


@dataclass(frozen=True)
class Phase:
    """Experience that a meta-update needs: every copy plays so many whole episodes."""

    episodes: int = 1


@dataclass(frozen=True)
class MetaBatch:
    """The experience of one meta-iteration: the tasks, and one part for each phase."""

    tasks: Tasks
    experience: tuple[Experience, ...]

    def cpu(self) -> "MetaBatch":
        """Return the same on the CPU."""
        moved = tuple(map_tensors(lambda x: x.cpu(), each) for each in self.experience)
        return replace(self, experience=moved)

    @classmethod
    def join(cls, parts: Sequence["MetaBatch"]) -> "MetaBatch":
        """Put together what was gathered for different tasks, with as many steps each."""
        if len(parts) == 1:
            return parts[0]
        tasks = Tasks.stack([task for part in parts for task in part.tasks])
        phases = zip(*(part.experience for part in parts), strict=True)
        return cls(tasks, tuple(_joined(each, dim=1) for each in phases))

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        """The experience of a family that is played."""
        found = tuple(each for each in self.experience if isinstance(each, Rollout))
        if len(found) < len(self.experience):
            raise UserError("the agent learns from rollouts, but this family gives examples")
        return found

    @property
    def examples(self) -> tuple[Examples, ...]:
        """The experience of a supervised family."""
        found = tuple(each for each in self.experience if isinstance(each, Examples))
        if len(found) < len(self.experience):
            raise UserError("the agent learns from examples, but this family is played")
        return found
