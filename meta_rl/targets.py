"""What a policy can adapt to: a task of its family, a goal given as numbers, any environment."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

from meta_rl.errors import UserError, did_you_mean
from meta_rl.gymnasium_env import GymnasiumTaskEnv
from meta_rl.named_env import NamedEnvironment
from meta_rl.protocols import Split, TaskDistribution, TaskEnv
from meta_rl.types import EnvSpec, Task, Tasks

OWN_GOAL = -1
"""Index of a task whose goal the user gave."""


@dataclass(frozen=True)
class Target:
    """One task, and a simulator for it."""

    label: str
    file_name: str
    tasks: Tasks
    env: TaskEnv
    protocol: Mapping[str, Any]


def environment(where: str, spec: EnvSpec, device: torch.device) -> Target:
    """Return a Gymnasium environment as a task; `NamedEnvironment` says how to name one."""
    family = NamedEnvironment(where, spec.observation_size, spec.action_low, spec.action_high)
    tasks = Tasks.stack([Task("gymnasium", where, 0, ())])
    protocol = {"env": where, "horizon": spec.horizon, "gymnasium": gymnasium.__version__}
    return Target(
        label=where,
        file_name=re.sub(r"[^\w.-]+", "-", Path(where).name),
        tasks=tasks,
        env=GymnasiumTaskEnv(family, spec, device, workers=1),
        protocol={"family": tasks.family, **protocol},
    )


def family_task(
    distribution: TaskDistribution,
    name: str | None,
    goal: str | None,
    split: Split,
    device: torch.device,
) -> Target:
    """Return one of a family's tasks.

    Args:
        name: Of the task; None where there is only one.
        goal: The index of one of its goals, or a goal as numbers: the task's parameters, joined
            by commas. None takes the first.
    """
    known = distribution.tasks(split)
    known = _of_name(known, name, f"the {split} split of {distribution.family}")
    if goal is None:
        tasks = known[:1]
    elif re.fullmatch(r"\d+", goal):
        tasks = _of_index(known, int(goal), split)
    else:
        tasks = _of_numbers(known, goal)
    (task,) = tasks
    which = goal if task.index == OWN_GOAL else task.index
    return Target(
        label=f"{task.name}:{which}",
        file_name=f"{task.name}-{which}",
        tasks=tasks,
        env=distribution.make_env(device, workers=1),
        protocol={
            "family": distribution.family,
            **distribution.protocol(),
            "task_params": task.params,
        },
    )


def _of_name(tasks: Tasks, name: str | None, where: str) -> Tasks:
    known = list(dict.fromkeys(tasks.names))
    listed = f"It has: {', '.join(known)}"
    if name is None:
        if len(known) > 1:
            raise UserError(f"name one of the tasks in {where}: --task NAME. {listed}")
        return tasks
    if name not in known:
        raise UserError(f"no task {name!r} in {where}; {did_you_mean(name, known)}{listed}")
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
