"""The tasks of a Gymnasium environment, drawn by what the config varies."""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import gymnasium
import torch
from jaxtyping import Float64
from torch import Tensor

from envs._drawn import check_fixed, hash_of
from envs.gymnasium.config import Config
from envs.gymnasium.environment import VariedFamily
from envs.gymnasium.success import read as read_success
from envs.gymnasium.variation import read as read_variations
from envs.gymnasium.wrapping import read as read_wrappers
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Split, TaskEnv
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import RETURN, SUCCESS, EnvSpec, Tasks
from meta_rl.rollouts.collector import SimulatedFamily
from meta_rl.rollouts.gymnasium.named import file_of, registered_horizon

FIRST_FRESH_INDEX = 2**20
"""Tasks that are drawn anew have higher indices than all fixed ones."""


class GymnasiumDistribution(SimulatedFamily):
    """Tasks that differ by numbers drawn apart for each split; see `envs.gymnasium.variation`.

    Task: one number for each entry of `vary`; of listed values their position.
    Observation: the environment's, flattened as `gymnasium.spaces.flatten` does.
    Action: the environment's; those of a bounded Box are scaled from [-1, 1].
    Reward: the environment's own, unchanged.
    Metric `success`: 1 on the step that solves the episode, if the config says what that is.
    """

    family = "gymnasium"

    def __init__(self, config: Config) -> None:
        for name in ("train_tasks", "validation_tasks", "test_tasks"):
            check_fixed(name, getattr(config, name))
        self._config = config
        self._variations = read_variations(config.vary, config.extrapolate)
        horizon = config.horizon or registered_horizon(config.id)
        self._worlds = VariedFamily(
            config.id,
            config.keywords,
            read_wrappers(config.wrappers),
            self._variations,
            horizon or 1,
            read_success(config.success),
        )
        env = self._worlds.make(config.id)  # before its horizon is missed: it may not even exist
        env.close()
        self._made_of = _packages_of(env) | _sources_of(config)
        if horizon is None:
            raise UserError(f"{config.id} has no step limit of its own; set envs.horizon")
        self.spec = EnvSpec(
            env.observation_space,
            env.action_space,
            horizon,
            self.family,
            self._worlds.metric_names,
            (SUCCESS, RETURN) if self._worlds.success else (RETURN,),
        )
        self._first_index: dict[Split, int] = {}
        self._fixed: dict[Split, Tensor] = {}
        count = 0
        for split in reversed(get_args(Split)):  # the test split's are the low numbers
            self._first_index[split] = count
            self._fixed[split] = self._draw_fixed(split)
            count += len(self._fixed[split])

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw different tasks: new ones to train on, or some of a split's fixed ones."""
        if split == "train" and not self._config.train_tasks:
            drawn = self._draw(count, split, generator)
            index = [FIRST_FRESH_INDEX + hash_of(params) for params in drawn]
            return self._tasks(torch.tensor(index), drawn)
        fixed = len(self._fixed[split])
        if not 1 <= count <= fixed:
            raise UserError(
                f"{count} tasks are more than the {fixed} {split} tasks of {self._config.id}; ask "
                f"for at least one and no more than these, or raise envs.{split}_tasks"
            )
        order = torch.randperm(fixed, generator=generator)[:count]
        return self.tasks(split)[order.tolist()]

    def tasks(self, split: Split) -> Tasks:
        """Return the fixed tasks of a split; of training that draws new ones, as many as test."""
        drawn = self._fixed[split]
        index = self._first_index[split] + torch.arange(len(drawn))
        return self._tasks(index, drawn)

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make the simulator: environments in worker processes."""
        from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv

        return GymnasiumTaskEnv(self._worlds, self.spec, device, workers)

    def protocol(self) -> Mapping[str, Any]:
        """Return the environment, what is varied and how it is held out."""
        config = self._config
        varied = json.dumps([config.vary, config.keywords, config.wrappers], sort_keys=True)
        return {
            "id": config.id,
            "vary": hashlib.sha256(varied.encode()).hexdigest()[:12],
            "horizon": self.spec.horizon,
            "success": json.dumps(config.success),
            "extrapolate": config.extrapolate,
            "test_tasks": config.test_tasks,
            "task_seed": config.task_seed,
            **self._made_of,
        }

    def _tasks(self, index: Tensor, params: Float64[Tensor, "M P"]) -> Tasks:
        return Tasks(self.family, (self._config.id,) * len(params), index, params)

    def _draw_fixed(self, split: Split) -> Float64[Tensor, "M P"]:
        config = self._config
        wanted = {
            "train": config.train_tasks or config.test_tasks,
            "validation": config.validation_tasks,
            "test": config.test_tasks,
        }[split]
        count = int(min(wanted, self._available(split)))
        return self._draw(count, split, make_generator(config.task_seed, f"gymnasium/{split}"))

    def _available(self, split: Split) -> float | int:
        """Return how many different tasks a split has."""
        return math.prod(variation.count(split) for variation in self._variations)

    def _draw(self, count: int, split: Split, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw different tasks."""
        available = self._available(split)
        if not 1 <= count <= available:
            raise UserError(
                f"{count} different {split} tasks of {self._config.id} were asked for, but "
                f"envs.vary gives {available:.0f}; lower meta_batch_size, or vary more"
            )
        drawn: dict[tuple[float, ...], None] = {}
        while len(drawn) < count:
            shares = torch.rand(len(self._variations), generator=generator, dtype=torch.float64)
            pairs = zip(self._variations, shares.tolist(), strict=True)
            drawn[tuple(variation.draw(split, share) for variation, share in pairs)] = None
        return torch.tensor([*drawn], dtype=torch.float64)


def _packages_of(env: gymnasium.Env[Any, Any]) -> dict[str, str]:
    """Return the versions of the packages that an environment and its physics' model are from."""
    plain = env.unwrapped
    kinds = [*type(plain).__mro__, type(getattr(plain, "model", None))]
    found = {}
    for name in sorted({kind.__module__.partition(".")[0] for kind in kinds}):
        with suppress(PackageNotFoundError):  # of Python itself, or a file of the user's
            found[name] = version(name)
    return found


def _sources_of(config: Config) -> dict[str, str]:
    """Return digests of the files that an environment and its wrappers are named in, if any.

    What they do is in no version: without this, results of other rewards would be compared.
    """
    named = [("envs.id", config.id)]
    named += [("envs.wrappers", each.name) for each in read_wrappers(config.wrappers)]
    files = {file for said, where in named if (file := file_of(where, said)) is not None}
    told = [
        f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        for file in sorted(files)
        if not _is_installed(file)
    ]
    return {"source": ", ".join(told)} if told else {}


def _is_installed(file: Path) -> bool:
    """Return whether a file came with a package, whose version tells what it does."""
    return "site-packages" in file.parts or "dist-packages" in file.parts
