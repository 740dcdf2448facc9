"""Meta-World's meta-learning benchmarks as a task distribution."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch

from envs.metaworld.config import GOALS_PER_SET, TASK_NAMES, Config
from envs.metaworld.goals import Goals, benchmark_goals, validation_goals
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Split, TaskEnv
from meta_rl.core.types import EnvSpec, Task, Tasks
from meta_rl.rollouts.collector import SimulatedFamily
from meta_rl.rollouts.warp.presence import check_warp, warn_of_slowness, warp_versions

OBSERVATION_SIZE = 39
OTHER_METRICS = {"gymnasium": (), "native": ("diverged",), "warp": ("diverged", "overflow")}


class MetaworldDistribution(SimulatedFamily):
    """A benchmark of Meta-World: up to 45 classes of training tasks, 50 hidden goals each.

    Test classes are others than those of training, but for ML1, CW10, and basketball-v3 in
    metaworld's ML25: there only the goals are held out. With `train_goal_sets` there are more
    training goals, which the benchmark does not have.

    Task: the vector that Meta-World draws for a goal (and, in most classes, an object) position,
    in metres; training goals have the first indices, then come 50 test goals, then 50 validation
    goals: of the training classes, and new.
    Observation (39,): hand position in metres, gripper opening, up to two objects' positions and
    quaternions; the same of the step before; three zeros where the goal would be.
    Action (4,): displacement of the hand as a fraction of 1 cm, gripper effort.
    Reward: Meta-World's own, version `v1` or `v2`, unchanged.
    Metric `success`: 1 on each step on which Meta-World counts the task as solved.
    Metric `diverged` (native and warp): 1 on a step that was cut because MuJoCo went unstable.
    Metric `overflow` (warp): 1 on a step with more contacts than MuJoCo Warp keeps memory for.
    """

    family = "metaworld"

    def __init__(self, config: Config, goals: Goals) -> None:
        if config.simulator == "warp":
            check_warp()
        self._config = config
        self._goals = goals
        train, test = (len(next(iter(goals[split].values()))) for split in ("train", "test"))
        self._goals_of_class = {"train": train, "test": test, "validation": GOALS_PER_SET}
        self._first_index = {"train": 0, "test": train, "validation": train + test}
        self._goal_sizes = {
            name: len(vectors[0]) for by_name in goals.values() for name, vectors in by_name.items()
        }
        self._params_size = max(self._goal_sizes.values())
        self.spec = EnvSpec.box(
            OBSERVATION_SIZE,
            action_low=(-1.0,) * 4,
            action_high=(1.0,) * 4,
            horizon=config.horizon,
            family=self.family,
            metrics=("success", *OTHER_METRICS[config.simulator]),
        )

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw a meta-batch without repetition, as evenly over the classes as `count` allows.

        Tasks come in the order of the classes, so that a world slot seldom changes its class.
        """
        classes = list(self._goals_of(split))
        goals = self._goals_of_class[split]
        available = len(classes) * goals
        if not 1 <= count <= available:
            raise UserError(self._count_message(count, available, split))
        share, remainder = divmod(count, len(classes))
        favoured = torch.randperm(len(classes), generator=generator)[:remainder].tolist()
        tasks = []
        for number, name in enumerate(classes):
            size = share + (number in favoured)
            drawn = torch.randperm(goals, generator=generator)[:size].tolist()
            tasks += [self._task(name, split, goal) for goal in drawn]
        return Tasks.stack(tasks)

    def tasks(self, split: Split) -> Tasks:
        """Return all goals of all classes of a split, class by class."""
        return Tasks.stack(
            [
                self._task(name, split, goal)
                for name in self._goals_of(split)
                for goal in range(self._goals_of_class[split])
            ]
        )

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make the simulator that the config names."""
        if self._config.simulator == "native":
            from envs.metaworld.native.task_env import NativeTaskEnv

            return NativeTaskEnv(
                self._config.reward_version, self._goal_sizes, self.spec, device, workers
            )
        if self._config.simulator == "warp":
            warn_of_slowness(device)
            from envs.metaworld.warp.task_env import WarpMetaworld

            return WarpMetaworld(self._config.reward_version, self._goal_sizes, self.spec, device)
        from envs.metaworld.gymnasium_face import MetaworldFamily
        from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv

        family = MetaworldFamily(self._config.reward_version, self._goal_sizes)
        return GymnasiumTaskEnv(family, self.spec, device, workers)

    def beyond(self, name: str) -> "MetaworldDistribution | None":
        """Return ML1 of another of the 50 tasks: all observe and act alike."""
        if name not in TASK_NAMES:
            return None
        config = replace(self._config, benchmark="ML1", task=name)
        return MetaworldDistribution(config, benchmark_goals(config))

    def protocol(self) -> Mapping[str, Any]:
        """Return the benchmark, the versions of what simulates it, and a digest of its goals."""
        config = self._config
        one_task = {"task": config.task} if config.benchmark == "ML1" else {}
        sets = config.train_goal_sets
        more_goals = {"train_goal_sets": sets} if sets > 1 else {}
        return {
            "benchmark": config.benchmark,
            **one_task,
            "reward_version": config.reward_version,
            "horizon": config.horizon,
            "goal_seed": config.goal_seed,
            **more_goals,
            **(warp_versions() if config.simulator == "warp" else {}),
            "metaworld": version("metaworld"),
            "mujoco": version("mujoco"),
            "goals": hashlib.sha256(json.dumps(self._goals).encode()).hexdigest()[:12],
        }

    def other_counts(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """Offer metaworld's own count, for numbers to set beside others' papers."""

        def by_metaworld(*arguments: Any) -> dict[str, Any]:
            from envs.metaworld.legacy import evaluate_as_metaworld

            return evaluate_as_metaworld(self, self._goals, self._config.reward_version, *arguments)

        return {"metaworld": by_metaworld}

    def _task(self, name: str, split: Split, goal: int) -> Task:
        params = self._goals_of(split)[name][goal]
        padding = [0.0] * (self._params_size - len(params))
        return Task(self.family, name, self._first_index[split] + goal, (*params, *padding))

    def _goals_of(self, split: Split) -> dict[str, list[list[float]]]:
        return self._validation_goals if split == "validation" else self._goals[split]

    @cached_property
    def _validation_goals(self) -> dict[str, list[list[float]]]:
        """Drawn only for who asks for them, since the first time takes a while."""
        return validation_goals(self._config)

    def _count_message(self, count: int, available: int, split: Split) -> str:
        if count < 1:
            return f"meta_batch_size must be at least 1, got {count}"
        return (
            f"meta_batch_size {count} is more than the {available} {split} tasks of "
            f"{self._config.benchmark}; lower meta_batch_size"
        )
