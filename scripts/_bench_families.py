"""What `bench_sampling.py` measures: the worlds of a benchmark, as each simulator wants them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit

from envs import locomotion, metaworld
from envs.locomotion.gymnasium_face import LocomotionFamily
from envs.locomotion.native.scene import scene as robot_scene
from envs.metaworld.distribution import MetaworldDistribution
from envs.metaworld.gymnasium_face import MetaworldFamily
from envs.metaworld.native.row import FORMAT
from envs.metaworld.native.scene import scene as metaworld_scene
from meta_rl.core.protocols import EnvDistribution
from meta_rl.core.types import Task, Tasks
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.mujoco.row import WorldFormat
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot

COPIES = {"ML1": 20, "ML10": 2, "ML25": 1, "ML45": 1} | dict.fromkeys(locomotion.TASKS, 40)
CLASSES = {"ML1": 1, "ML10": 10, "ML25": 25, "ML45": 45} | dict.fromkeys(locomotion.TASKS, 1)
NEVER_TERMINATE = (
    "half_cheetah_direction",
    "half_cheetah_velocity",
    "half_cheetah_dynamics",
    "ant_goal",
)

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


@dataclass(frozen=True)
class Worlds:
    """The worlds of a benchmark."""

    native: EnvDistribution
    gymnasium: EnvDistribution
    """The same tasks in worker processes."""
    tasks: Tasks
    horizon: int
    world_format: WorldFormat
    makers: list[MakeEnv]
    """Make each world's environment for Gymnasium's own vector environments."""
    make_physics: Callable[[], list[tuple[Scene, Snapshot]]]
    envpool_id: str | None
    """What EnvPool calls the environment, if it is one."""
    end_together: bool = True
    """Whether episodes end at the horizon alone."""


def make_worlds(
    benchmark: str, task: str | None, copies: int | None, horizon: int | None
) -> Worlds:
    """Return the worlds of one of Meta-World's benchmarks, or of a task of locomotion."""
    count = (copies or COPIES[benchmark]) * CLASSES[benchmark]
    if benchmark in locomotion.TASKS:
        return locomotion_worlds(benchmark, count, horizon or 200)
    return metaworld_worlds(benchmark, task, count, horizon or metaworld.MAX_HORIZON)


def metaworld_worlds(benchmark: str, task: str | None, count: int, horizon: int) -> Worlds:
    """Return worlds of Meta-World's train tasks."""
    chosen = {} if task is None else {"task": task}
    config = metaworld.Config(benchmark=benchmark, horizon=horizon, **chosen)
    native = metaworld.build(config)
    tasks = native.sample(count, "train", torch.Generator().manual_seed(0))
    alone = tasks.names[0] if len(set(tasks.names)) == 1 else None
    words = "" if alone is None else alone.removesuffix("-v3").replace("-", " ").title()
    return Worlds(
        native,
        metaworld.build(replace(config, simulator="gymnasium")),
        tasks,
        horizon,
        FORMAT,
        [
            partial(make_metaworld_env, plain(each), goal_size(native, each), horizon)
            for each in tasks
        ],
        lambda: [metaworld_world(native, each) for each in tasks],
        f"MetaWorld/{words.replace(' ', '')}-v3" if alone else None,
    )


def goal_size(distribution: MetaworldDistribution, task: Task) -> int:
    """Return how many of a task's params are its goal."""
    return distribution._goal_sizes[task.name]


def metaworld_world(distribution: MetaworldDistribution, task: Task) -> tuple[Scene, Snapshot]:
    """Return the scene and the snapshot of a task."""
    size = goal_size(distribution, task)
    its_scene = metaworld_scene(task.name, "v2", size)
    return its_scene, its_scene.snapshot(task.params[:size])


def make_metaworld_env(task: WorldTask, goal_size: int, horizon: int) -> gymnasium.Env[Any, Any]:
    """Make metaworld's own environment with a goal; it truncates by itself at the horizon."""
    family = MetaworldFamily("v2", {task.name: goal_size})
    env = family.make(task.name)
    family.assign(env, task)
    env.unwrapped.max_path_length = horizon  # type: ignore[attr-defined]
    return env


def locomotion_worlds(name: str, count: int, horizon: int) -> Worlds:
    """Return worlds of a task of locomotion."""
    config = locomotion.Config(task=name, horizon=horizon)
    native = locomotion.build(config)
    tasks = native.sample(count, "train", torch.Generator().manual_seed(0))
    its_scene = robot_scene(name)
    return Worlds(
        native,
        locomotion.build(replace(config, simulator="gymnasium")),
        tasks,
        horizon,
        its_scene.format,
        [partial(make_robot, plain(each), horizon) for each in tasks],
        lambda: [(its_scene, its_scene.snapshot(each.params)) for each in tasks],
        locomotion.TASKS[name].robot.id,
        name in NEVER_TERMINATE,
    )


def make_robot(task: WorldTask, horizon: int) -> gymnasium.Env[Any, Any]:
    """Make Gymnasium's robot with a task."""
    family = LocomotionFamily()
    env = family.make(task.name)
    family.assign(env, task)
    return TimeLimit(env, horizon)


def plain(task: Task) -> WorldTask:
    """Return a task as workers know it."""
    return WorldTask(task.name, task.index, task.params)


def random_actions(worlds: Worlds) -> np.ndarray[Any, Any]:
    """Return actions at random, for each step and world."""
    shape = (worlds.horizon, len(worlds.tasks), worlds.world_format.action_size)
    return np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)
