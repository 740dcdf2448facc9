"""Meta-World's classes of tasks as scenes, reset by metaworld's own environments."""

import importlib
import logging
import time
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.metaworld.gymnasium_face import MetaworldFamily
from envs.metaworld.native import row, sawyer
from envs.metaworld.native.row import TaskRow
from meta_rl.core.types import Task
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.mujoco.compiling import REWARD, ROW, cache_root, callback
from meta_rl.rollouts.mujoco.scene import Binding, Scene, Snapshot, TaskCode

logger = logging.getLogger(__name__)


def task_module(name: str) -> ModuleType:
    """Return the file of a task: `peg-insert-side-v3` is `tasks/peg_insert_side.py`."""
    stem = name.removesuffix("-v3").replace("-", "_")
    return importlib.import_module(f"envs.metaworld.native.tasks.{stem}")


class MetaworldScene(Scene):
    """One of the 50 classes: metaworld's environment of it, and its task's compiled code.

    Args:
        name: Such as `reach-v3`.
        reward_version: `v1` or `v2`.
        goal_size: How many of a task's params are its goal.
    """

    def __init__(self, name: str, reward_version: str, goal_size: int) -> None:
        self.name = name
        self.module = module = task_module(name)
        self.task: TaskRow = module.task
        self._family = MetaworldFamily(reward_version, {name: goal_size})
        env: Any = self._family.make(name)
        super().__init__(env.unwrapped, self.task)
        started = time.perf_counter()
        self._reward = callback(getattr(module, f"reward_{reward_version}"), REWARD)
        observe = getattr(module, "observe", None)
        self._observe = None if observe is None else callback(observe, (ROW,))
        self._sawyer = sawyer.functions()
        if (took := time.perf_counter() - started) > 0.5:
            logger.info("compiled %s in %.1f s, kept in %s", name, took, cache_root())

    @property
    def code(self) -> TaskCode:
        """Where the compiled functions are: acting and observing are the same for all classes."""
        act, observe = self._sawyer
        return TaskCode(int(act.address), int(observe.address), int(self._reward.address))

    def reset(self, params: tuple[float, ...]) -> Mapping[int, NDArray[np.float64]]:
        """Let metaworld reset to a goal; return the observation."""
        self._family.assign(self.env, WorldTask(self.name, 0, params))
        obs, _ = self.env.reset()
        return {row.OBS: obs, row.FRAME: obs[: row.FRAME_SIZE]}

    def bind(self, data: mujoco.MjData) -> Binding:
        """Return where robot and objects are in `data`, and the bounds of the hand's target."""
        task_observe = 0 if self._observe is None else int(self._observe.address)
        return sawyer.bind(self, data, self.task, task_observe)


@cache
def scene(name: str, reward_version: str, goal_size: int) -> MetaworldScene:
    """Return the scene of a class, made the first time: all simulators of a process share it."""
    return MetaworldScene(name, reward_version, goal_size)


def world_of(
    task: Task, reward_version: str, goal_sizes: Mapping[str, int]
) -> tuple[MetaworldScene, Snapshot]:
    """Return the scene of a task's class, and the snapshot of its goal.

    Args:
        goal_sizes: How many of a task's params are its goal, by task name.
    """
    goal_size = goal_sizes[task.name]
    its_scene = scene(task.name, reward_version, goal_size)
    return its_scene, its_scene.snapshot(task.params[:goal_size])
