"""What a policy can adapt to: a task of its family, a goal given as numbers, any environment."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import torch

from meta_rl.core.errors import UserError, what_there_is
from meta_rl.core.lives import original
from meta_rl.core.protocols import OpenDistribution, Split, TaskDistribution, TaskEnv
from meta_rl.core.types import RETURN, SUCCESS, EnvSpec, Task, Tasks
from meta_rl.rollouts.collector import SimulatedFamily
from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv
from meta_rl.rollouts.gymnasium.user_env import NamedEnvironment

OWN_GOAL = -1
"""Index of a task whose goal the user gave."""


@dataclass(frozen=True)
class Target:
    """One task, and the distribution that makes a simulator for it."""

    distribution: TaskDistribution
    tasks: Tasks
    label: str
    file_name: str

    @property
    def protocol(self) -> dict[str, Any]:
        """Return all about the task that a number depends on."""
        (task,) = self.tasks
        return {
            "family": self.distribution.family,
            **self.distribution.protocol(),
            "task_params": task.params,
        }


class NamedDistribution(SimulatedFamily):
    """A Gymnasium environment that the user names, as the one task of a family."""

    family = "gymnasium"

    def __init__(self, where: str, spec: EnvSpec) -> None:
        self.where = where
        self.spec = replace(spec, metrics=("success",), scores=(SUCCESS, RETURN))

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Return the task so many times."""
        return self.tasks(split)[[0] * count]

    def tasks(self, split: Split) -> Tasks:
        """Return the one task, which has no parameters."""
        return Tasks.stack([Task(self.family, self.where, 0, ())])

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make a worker process for the environment."""
        named = NamedEnvironment(self.where, self.spec.observation_space, self.spec.action_space)
        return GymnasiumTaskEnv(named, self.spec, device, workers)

    def protocol(self) -> Mapping[str, Any]:
        """Return the environment's name; what it does is its owner's."""
        return {
            "env": self.where,
            "horizon": self.spec.horizon,
            "gymnasium": gymnasium.__version__,
        }


def environment(where: str, spec: EnvSpec) -> Target:
    """Return a Gymnasium environment as a task; `NamedEnvironment` says how to name one."""
    distribution = NamedDistribution(where, spec)
    # With its folders: those of several robots may have files of one name.
    file_name = re.sub(r"[^\w.-]+", "-", where).lstrip("-.")[-120:]
    return Target(distribution, distribution.tasks("test"), where, file_name)


def in_file_names(name: str) -> str:
    """Return a task's name as files have it; one that is a path leads to no other folder."""
    return re.sub(r"[^\w.-]+", "-", Path(name).name)


def family_task(
    distribution: TaskDistribution, name: str | None, goal: str | None, split: Split
) -> Target:
    """Return one of a family's tasks, also one that the distribution does not hold itself.

    Args:
        name: Of the task; None where there is only one.
        goal: The index of one of its goals, or a goal as numbers: the task's parameters, joined
            by commas. None takes the first.
    """
    held = distribution.tasks(split).names
    whole = original(distribution)
    if name and name not in held and isinstance(whole, OpenDistribution):
        distribution = whole.beyond(name) or distribution
    known = _of_name(distribution.tasks(split), name, f"the {split} split of {distribution.family}")
    if goal is None:
        tasks = known[:1]
    elif re.fullmatch(r"-?\d+", goal):
        tasks = _of_index(known, int(goal), split)
    else:
        tasks = _of_numbers(known, goal)
    (task,) = tasks
    which = goal if task.index == OWN_GOAL else task.index
    file_name = f"{in_file_names(task.name)}-{which}"
    return Target(distribution, tasks, f"{task.name}:{which}", file_name)


def _of_name(tasks: Tasks, name: str | None, where: str) -> Tasks:
    known = list(dict.fromkeys(tasks.names))
    if name is None:
        if len(known) > 1:
            listed = ", ".join(known)
            raise UserError(f"name one of the tasks in {where}: --task NAME. There are: {listed}")
        return tasks
    if name not in known:
        raise UserError(f"no task {name!r} in {where}; {what_there_is(name, known)}")
    return tasks[[row for row, other in enumerate(tasks.names) if other == name]]


def _of_index(tasks: Tasks, index: int, split: Split) -> Tasks:
    indices = tasks.index.tolist()
    if index not in indices:
        raise UserError(
            f"no goal {index} of {tasks.names[0]} in the {split} split; it has {min(indices)} to "
            f"{max(indices)}; a goal of your own is numbers with a comma or a decimal point"
        )
    return tasks[[indices.index(index)]]


def _of_numbers(tasks: Tasks, goal: str) -> Tasks:
    """Return the task of a goal that no split has."""
    try:
        numbers = [float(number) for number in goal.split(",")]
    except ValueError as error:
        raise UserError(f"--goal must be an index or numbers like 0.1,0.8, got {goal!r}") from error
    if not all(math.isfinite(number) for number in numbers):
        raise UserError(f"--goal must be finite numbers, got {goal!r}")
    width = tasks.params.shape[1]
    # Shorter parameters than the family's longest are padded with zeros.
    used = int(tasks.params.ne(0).any(0).nonzero().max()) + 1 if tasks.params.any() else width
    if len(numbers) not in (used, width):
        example = ",".join(f"{number:.4g}" for number in tasks.params[0, :used].tolist())
        raise UserError(
            f"a goal of {tasks.names[0]} is {used} numbers, e.g. {example}; got {len(numbers)}: "
            f"{goal!r}"
        )
    params = (*numbers, *[0.0] * (width - len(numbers)))
    return Tasks.stack([Task(tasks.family, tasks.names[0], OWN_GOAL, params)])
