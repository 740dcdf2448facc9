"""A Gymnasium environment that the user names, as a family of one task.

Nothing here may import torch: it runs in the workers of `meta_rl.rollouts.gymnasium.task_env`.
"""

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.worker import Env, WorldTask


@dataclass(frozen=True)
class NamedEnvironment:
    """Makes the environment that `where` names, if a policy of the given sizes can act in it.

    Args:
        where: `module:attribute`, `path/to/file.py:attribute` (a class, or a function that makes
            the environment, called without arguments), or an id that Gymnasium knows.
    """

    where: str
    observation_size: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    metric_names: tuple[str, ...] = ("success",)

    def make(self, name: str) -> Env:
        """Make the environment; its success is NaN while it says nothing of it."""
        env = make(self.where)
        self._check_spaces(env)
        return SuccessReported(env)

    def assign(self, env: Env, task: WorldTask) -> None:
        """Leave the environment alone: its task may go on changing as it likes."""

    def _check_spaces(self, env: Env) -> None:
        observation = gymnasium.spaces.flatten_space(env.observation_space)
        ours = gymnasium.spaces.Box(
            np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)
        )
        theirs = env.action_space
        fits = (
            observation.shape == (self.observation_size,)
            and isinstance(theirs, gymnasium.spaces.Box)
            and theirs.shape == ours.shape
            and np.allclose(theirs.low, ours.low)
            and np.allclose(theirs.high, ours.high)
        )
        if not fits:
            raise UserError(
                f"the policy observes {(self.observation_size,)} and acts in {ours}, but "
                f"{self.where} observes {observation.shape} and takes actions in {theirs}; give "
                f"the environment the spaces of the run's tasks (gymnasium.wrappers "
                f"TransformObservation and RescaleAction may help)"
            )


class SuccessReported(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts `info["success"]` or `info["is_success"]`, or else NaN, into `info["success"]`."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        success = info.get("success", info.get("is_success", math.nan))
        return obs, reward, terminated, truncated, {**info, "success": float(success)}


def make(where: str) -> Env:
    """Make the environment that a user names."""
    source, colon, attribute = where.rpartition(":")
    if colon and source.endswith(".py"):
        return _call(_module_of_file(Path(source)), attribute, where)
    if colon:
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # the module is there, but something that it imports is not
            raise UserError(
                f"cannot import {source!r} of --env {where}; make sure that Python finds it "
                f"(PYTHONPATH, or pip install -e), or name its file: path/to/file.py:{attribute}"
            ) from error
        if hasattr(module, attribute):
            return _call(module, attribute, where)
    try:
        env: Env = gymnasium.make(where)  # an id, also `module:id`
    except gymnasium.error.Error as error:
        raise UserError(
            f"no environment --env {where}: {error}; name module:attribute, "
            f"path/to/file.py:attribute, or an id that Gymnasium knows"
        ) from error
    return env


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no file {path} for --env; name path/to/file.py:attribute")
    sys.path.insert(0, str(path.resolve().parent))  # as if Python ran the file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _call(module: ModuleType, attribute: str, where: str) -> Env:
    maker: Callable[[], Any] | None = getattr(module, attribute, None)
    if not callable(maker):
        raise UserError(f"--env {where}: no {attribute!r} to call in {module.__name__}")
    env = maker()
    if not isinstance(env, gymnasium.Env):
        raise UserError(
            f"--env {where} must make a gymnasium.Env, but it made {type(env).__name__}"
        )
    return env
