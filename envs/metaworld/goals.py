"""The goals of Meta-World's benchmarks, drawn by metaworld itself and kept in the user's cache."""

import contextlib
import json
import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from envs.metaworld.config import CW10, GOALS_PER_SET, Config
from envs.metaworld.welds import mend_welds
from meta_rl.core import outputs
from meta_rl.core.errors import UserError

logger = logging.getLogger(__name__)

VALIDATION_SEED_OFFSET = 2**31 + 1
"""From `goal_seed` to the seed of validation goals. It is odd, and 2**32 - 1 less is even and
negative, so the seed is none of `goal_seed`, `goal_seed` + 1, or `goal_seed` + 2, 4, ..., which
train and test goals are drawn with."""

Goals: TypeAlias = dict[str, dict[str, list[list[float]]]]
"""Goal vectors by split and task name; the names are in the benchmark's order."""


def benchmark_goals(config: Config) -> Goals:
    """Return the benchmark's goals, with all sets of those to train on."""
    goals = _goal_set(config)
    for number in range(1, config.train_goal_sets):
        # not every seed: Meta-World's test goals of a seed are the training goals of the next
        further = _goal_set(replace(config, goal_seed=config.goal_seed + 2 * number))
        for name, vectors in goals["train"].items():
            vectors += further["train"][name]
    return goals


def validation_goals(config: Config) -> dict[str, list[list[float]]]:
    """Return new goals of the training classes, by name, that no other split has.

    They are not of the test classes: a checkpoint that is chosen by those would be fitted to them.
    """
    seed = (config.goal_seed + VALIDATION_SEED_OFFSET) % (2**32 - 1)
    return _goal_set(replace(config, goal_seed=seed))["train"]


def _goal_set(config: Config) -> Goals:
    """Return the goals that Meta-World draws, from the user's cache if they were drawn before.

    Those of CW10, which is none of metaworld's benchmarks, are ML1's of each task.
    """
    if config.benchmark == "CW10":
        by_name = {name: _goal_set(replace(config, benchmark="ML1", task=name)) for name in CW10}
        return {
            split: {name: goals[split][name] for name, goals in by_name.items()}
            for split in ("train", "test")
        }
    cached = _cache_path(config)
    goals = _read_goals(cached)
    if goals is None:
        logger.info("drawing the goals of %s, which takes a while the first time", cached.stem)
        goals = _draw_goals(config)
        _write_goals(cached, goals)
    return goals


def _draw_goals(config: Config) -> Goals:
    import metaworld

    mend_welds()
    with _settling_shortened():
        if config.benchmark == "ML1":
            benchmark = metaworld.ML1(config.task, config.goal_seed)  # type: ignore[no-untyped-call]
        else:
            benchmark = getattr(metaworld, config.benchmark)(config.goal_seed)
    return {
        "train": _goals_by_name(benchmark.train_classes, benchmark.train_tasks),
        "test": _goals_by_name(benchmark.test_classes, benchmark.test_tasks),
    }


def _goals_by_name(names: Iterable[str], tasks: Iterable[Any]) -> dict[str, list[list[float]]]:
    goals: dict[str, list[list[float]]] = {name: [] for name in names}
    for task in tasks:
        data = pickle.loads(task.data)
        # nothing else may be lost: `MetaworldFamily.assign` rebuilds the task from its goal
        assert data.keys() == {"rand_vec", "env_cls", "partially_observable"}, data.keys()
        goals[task.env_name].append(data["rand_vec"].tolist())
    return goals


@contextlib.contextmanager
def _settling_shortened() -> Iterator[None]:
    """Let Meta-World's resets simulate little of the hand's way to its start.

    A benchmark resets each simulator 100 times to draw its goals, which depend on the seed alone.
    A test holds them equal to those drawn with it.
    """
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    def settle_once(self: SawyerXYZEnv, steps: int = 1) -> None:
        settle(self, steps=1)  # none would leave the bodies' poses undefined

    settle = SawyerXYZEnv._reset_hand
    SawyerXYZEnv._reset_hand = settle_once  # type: ignore[method-assign]
    try:
        yield
    finally:
        SawyerXYZEnv._reset_hand = settle  # type: ignore[method-assign]


def _cache_path(config: Config) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    which = config.task if config.benchmark == "ML1" else "all"
    name = f"{version('metaworld')}-{config.benchmark}-{which}-seed{config.goal_seed}.json"
    return root / "meta_rl" / "metaworld_goals" / name


def _read_goals(path: Path) -> Goals | None:
    """Return goals from the cache, or None where it lacks them or holds anything else."""
    try:
        goals = json.loads(path.read_text())
        well_formed = list(goals) == ["train", "test"] and all(
            len(vectors) == GOALS_PER_SET
            and all(isinstance(number, float) for vector in vectors for number in vector)
            for by_name in goals.values()
            for vectors in by_name.values()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return goals if well_formed else None


def _write_goals(path: Path, goals: Goals) -> None:
    """Write goals for the next time; where that fails, they are drawn again then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        outputs.write(json.dumps(goals).encode(), path, "the goals")
    except (OSError, UserError) as error:
        logger.info("cannot keep the goals in %s: %s", path, error)
