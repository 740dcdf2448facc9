"""Meta-World's meta-learning benchmarks (Yu et al. 2020; McLean et al. 2025)."""

import contextlib
import hashlib
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.core.protocols import Expert, MetaAgent, Split, TaskEnv
from meta_rl.core.types import EnvSpec, Task, Tasks
from meta_rl.evaluation.protocol import choose_tasks
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.collector import SimulatedFamily

logger = logging.getLogger(__name__)

BENCHMARKS = ("ML1", "ML10", "ML25", "ML45")
REWARD_VERSIONS = ("v1", "v2")
SIMULATORS = ("native", "gymnasium")
MAX_HORIZON = 500
"""Meta-World's environments refuse to be stepped any longer."""
GOALS_PER_SET = 50
"""How many goals Meta-World draws for each task name and split."""
OBSERVATION_SIZE = 39
TASK_NAMES = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "hand-insert-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "pick-place-wall-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "plate-slide-v3",
    "plate-slide-side-v3",
    "plate-slide-back-v3",
    "plate-slide-back-side-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "soccer-v3",
    "stick-push-v3",
    "stick-pull-v3",
    "push-v3",
    "push-wall-v3",
    "push-back-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-open-v3",
    "window-close-v3",
)
"""The tasks of `metaworld.ML1`, repeated here because importing metaworld is slow."""

Goals: TypeAlias = dict[str, dict[str, list[list[float]]]]
"""Goal vectors by split and task name; the names are in the benchmark's order."""


@dataclass(frozen=True)
class Config:
    """Meta-World: a robot arm, and goals that it cannot see (Yu et al. 2020)."""

    benchmark: str = "ML1"
    """ML1 varies the goal of one task; ML10, ML25 and ML45 train on that many and hold out 5."""
    task: str = "reach-v3"
    """The one task of ML1, any of Meta-World's 50; the other benchmarks ignore it."""
    reward_version: str = "v2"
    """Which of Meta-World's reward functions to use: v1 or v2."""
    horizon: int = MAX_HORIZON
    """Environment steps after which an episode is truncated."""
    goal_seed: int = 0
    """Seed of the goals of both splits."""
    train_goal_sets: int = 1
    """Train on so many sets of Meta-World's 50 goals a class, drawn with seeds goal_seed,
    goal_seed + 2, ...; the test goals stay the same. The benchmarks have one."""
    simulator: str = "native"
    """native steps MuJoCo's C library on threads, with rewards compiled; gymnasium is metaworld's
    own code in worker processes: the reference, and several times slower."""

    def __post_init__(self) -> None:
        _check_name("benchmark", self.benchmark, BENCHMARKS)
        _check_name("task", self.task, TASK_NAMES)
        _check_name("reward_version", self.reward_version, REWARD_VERSIONS)
        _check_name("simulator", self.simulator, SIMULATORS)
        if not 1 <= self.horizon <= MAX_HORIZON:
            raise UserError(f"horizon must be between 1 and {MAX_HORIZON}, got {self.horizon}")
        if self.train_goal_sets < 1:
            raise UserError(f"train_goal_sets must be at least 1, got {self.train_goal_sets}")
        last = self.goal_seed + 2 * (self.train_goal_sets - 1)
        if self.goal_seed < 0 or last >= 2**32 - 1:
            raise UserError(
                f"goal_seed must be between 0 and 2**32 - 2, and so must the last seed that "
                f"train_goal_sets counts on to, got {self.goal_seed} to {last}"
            )


def build(config: Config) -> "MetaworldDistribution":
    """Return the benchmark that a config describes; its goals come from metaworld itself."""
    return MetaworldDistribution(config, _goals(config))


def expert() -> Expert:
    """Return Meta-World's scripted policies, for all 50 classes."""
    from envs._metaworld_expert import MetaworldExpert

    return MetaworldExpert()


class MetaworldDistribution(SimulatedFamily):
    """A benchmark of Meta-World: up to 45 classes of training tasks, 50 hidden goals each.

    With `train_goal_sets` there are more training goals, which the benchmark does not have.

    Task: the vector that Meta-World draws for a goal (and, in most classes, an object) position,
    in metres; training goals have the first indices, the 50 test goals those after them.
    Observation (39,): hand position in metres, gripper opening, up to two objects' positions and
    quaternions; the same of the step before; three zeros where the goal would be.
    Action (4,): displacement of the hand as a fraction of 1 cm, gripper effort.
    Reward: Meta-World's own, version `v1` or `v2`, unchanged.
    Metric `success`: 1 on each step on which Meta-World counts the task as solved.
    Metric `diverged` (native simulator): 1 on a step that was cut because MuJoCo went unstable.
    """

    family = "metaworld"

    def __init__(self, config: Config, goals: Goals) -> None:
        native = config.simulator == "native"
        self._config = config
        self._goals = goals
        self._goals_of_class = {
            split: len(next(iter(by_name.values()))) for split, by_name in goals.items()
        }
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
            metrics=("success", "diverged") if native else ("success",),
        )

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw a meta-batch without repetition, as evenly over the classes as `count` allows.

        Tasks come in the order of the classes, so that a world slot seldom changes its class.
        """
        classes, goals = list(self._goals[split]), self._goals_of_class[split]
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
                for name in self._goals[split]
                for goal in range(self._goals_of_class[split])
            ]
        )

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make the native simulator, or Meta-World's own environments in worker processes."""
        if self._config.simulator == "native":
            from envs._native.task_env import NativeTaskEnv

            return NativeTaskEnv(
                self._config.reward_version, self._goal_sizes, self.spec, device, workers
            )
        from envs._metaworld_gym import MetaworldFamily
        from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv

        family = MetaworldFamily(self._config.reward_version, self._goal_sizes)
        return GymnasiumTaskEnv(family, self.spec, device, workers)

    def beyond(self, name: str) -> "MetaworldDistribution | None":
        """Return ML1 of another of the 50 tasks: all observe and act alike."""
        if name not in TASK_NAMES:
            return None
        return build(replace(self._config, benchmark="ML1", task=name))

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
            "metaworld": version("metaworld"),
            "mujoco": version("mujoco"),
            "goals": hashlib.sha256(json.dumps(self._goals).encode()).hexdigest()[:12],
        }

    def legacy_evaluation(
        self, agent: MetaAgent, device: torch.device, config: EvaluationConfig, copies: int
    ) -> dict[str, Any]:
        """Let metaworld's own code evaluate an agent, for numbers to set beside others' papers.

        Its counting flatters; the result says how. Without `config.goals` it takes as many goals
        as metaworld's defaults assume. Each adaptation learns from as many episodes as in our own
        evaluation with so many copies, played one after the other.
        """
        from envs import _metaworld_legacy as legacy

        benchmark = legacy.GoalsDrawn(self._goals)
        tasks = choose_tasks(self, config.split, config.goals or legacy.GOALS)
        episodes = agent.phases[0].episodes * (copies if agent.copies_share_experience else 1)
        return legacy.evaluate_as_metaworld(
            agent,
            benchmark,
            tasks,
            self.spec,
            self._config.reward_version,
            config,
            episodes,
            device,
        )

    def _task(self, name: str, split: Split, goal: int) -> Task:
        params = self._goals[split][name][goal]
        padding = [0.0] * (self._params_size - len(params))
        index = goal if split == "train" else self._goals_of_class["train"] + goal
        return Task(self.family, name, index, (*params, *padding))

    def _count_message(self, count: int, available: int, split: Split) -> str:
        if count < 1:
            return f"meta_batch_size must be at least 1, got {count}"
        return (
            f"meta_batch_size {count} is more than the {available} {split} tasks of "
            f"{self._config.benchmark}; lower meta_batch_size"
        )


def _check_name(field: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        hint = did_you_mean(given, list(known))
        raise UserError(f"no {field} {given!r} in Meta-World; {hint}It has: {', '.join(known)}")


def _goals(config: Config) -> Goals:
    """Return the benchmark's goals, with all sets of those to train on."""
    goals = _goal_set(config)
    for number in range(1, config.train_goal_sets):
        # not every seed: Meta-World's test goals of a seed are the training goals of the next
        further = _goal_set(replace(config, goal_seed=config.goal_seed + 2 * number))
        for name, vectors in goals["train"].items():
            vectors += further["train"][name]
    return goals


def _goal_set(config: Config) -> Goals:
    """Return the goals that Meta-World draws, from the user's cache if they were drawn before."""
    cached = _cache_path(config)
    goals = _read_goals(cached)
    if goals is None:
        logger.info("drawing the goals of %s, which takes a while the first time", cached.stem)
        goals = _draw_goals(config)
        _write_goals(cached, goals)
    return goals


def _draw_goals(config: Config) -> Goals:
    import metaworld

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
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(goals, file)
        os.replace(file.name, path)
    except OSError as error:
        logger.info("cannot keep the goals in %s: %s", path, error)
