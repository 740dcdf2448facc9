"""The simulators as a `gymnasium.vector.VectorEnv`, for code that knows nothing of this platform.

`envs._sb3_face` is the same for Stable-Baselines3.
"""

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box, Discrete, MultiDiscrete, flatten, flatten_space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from meta_rl.core.errors import NonFiniteAction, UserError, what_there_is
from meta_rl.core.protocols import EnvDistribution, Split
from meta_rl.core.resources import usable_cores
from meta_rl.core.spaces import Space
from meta_rl.core.types import Tasks
from meta_rl.experiment import catalog
from meta_rl.experiment.config import from_dict

Array: TypeAlias = NDArray[Any]

RESET_OPTIONS = ("tasks", "resample")


def make_vec(
    family: str = "metaworld",
    num_envs: int | None = None,
    seed: int = 0,
    split: Split = "train",
    tasks: Tasks | None = None,
    workers: int | None = None,
    **config_fields: Any,
) -> "TaskVectorEnv":
    """Return worlds of a family's tasks, one copy of each task, as a Gymnasium vector environment.

    Args:
        family: A module of `envs/`, as `meta-rl list envs` shows them.
        num_envs: How many tasks to draw; may be left out if `tasks` are given.
        seed: Decides which tasks are drawn, and whatever chance the simulator has in it.
        split: Which tasks to draw from.
        tasks: The tasks themselves, in place of drawing. `tasks[[0, 0, 1]]` repeats one.
        workers: Threads or processes that the simulator may use; None is one for each core.
        **config_fields: Fields of the family's Config, such as `benchmark="ML10"`.
    """
    module = catalog.load("envs", family)
    config = from_dict(module.Config, config_fields, where="", source=f"make_vec({family!r})")
    if num_envs is None:
        if tasks is None:
            raise UserError("give the number of worlds, num_envs, or the tasks themselves")
        num_envs = len(tasks)
    workers = workers if workers is not None else usable_cores()
    distribution = module.build(config)
    if not isinstance(distribution, EnvDistribution):
        raise UserError(f"the family {family} has no simulator to step: it has no make_env")
    return TaskVectorEnv(distribution, num_envs, seed, split, tasks, workers)


class TaskVectorEnv(VectorEnv[Array, Array, Array]):
    """A Gymnasium vector environment over any family's simulator: world `w` plays task `w`.

    An episode that ends is followed by the next within the same step (`SAME_STEP`), on the same
    task: `final_obs` and `final_info` hold what the ended one had to say. The other modes would
    have worlds wait or begin one by one, which a `TaskEnv` does not offer. `infos` hold the
    family's metrics (`success`, say), whose masks (`_success`) are false where an episode ended.

    `reset(options={"resample": True})` draws other tasks, `options={"tasks": ...}` sets them.
    """

    def __init__(
        self,
        distribution: EnvDistribution,
        num_envs: int,
        seed: int,
        split: Split,
        tasks: Tasks | None,
        workers: int,
    ) -> None:
        self.closed = True  # until there is anything to close
        self._end: Callable[[], object] = lambda: None
        if num_envs < 1:
            raise UserError(f"num_envs must be at least 1, got {num_envs}")
        if split not in get_args(Split):
            raise UserError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
        spec = distribution.spec
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = _as_rows(spec.observation_space)
        self.single_action_space = _as_acted(spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metric_names = distribution.spec.metrics
        """The keys of `infos`, masks and the final ones aside."""
        self._distribution = distribution
        self._split = split
        super().reset(seed=seed)
        self._tasks = self._draw() if tasks is None else self._checked(tasks)
        self._env = distribution.make_env(torch.device("cpu"), workers)
        # Threads and processes end with what nobody holds any longer, too.
        self._end = weakref.finalize(self, self._env.close)
        self._started = False
        self.closed = False

    @property
    def tasks(self) -> Tasks:
        """The task of each world; `options` of `reset` change it."""
        return self._tasks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin a new episode in every world; return the first observations and no infos.

        Args:
            seed: Begins the chance in tasks and simulator anew.
            options: `{"tasks": Tasks}` sets the tasks, `{"resample": True}` draws others.
        """
        self._check_open()
        options = options or {}
        for key in options:
            if key not in RESET_OPTIONS:
                raise UserError(
                    f"reset has no option {key!r}; {what_there_is(str(key), RESET_OPTIONS)}"
                )
        super().reset(seed=seed)
        if options.get("tasks") is not None:
            self._tasks = self._checked(options["tasks"])
        elif options.get("resample"):
            self._tasks = self._draw()
        obs = self._env.start(self._tasks, 1, int(self.np_random.integers(2**62)))
        self._started = True
        return _worlds(obs), {}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step every world once; where that ends an episode, begin the next."""
        self._check_open()
        if not self._started:
            raise ResetNeeded("call reset() before step()")
        wanted = np.asarray(actions)
        if wanted.shape != self.action_space.shape:
            raise UserError(
                f"actions must have shape {self.action_space.shape}, got {wanted.shape}: "
                f"one row for each world"
            )
        if not np.isfinite(wanted).all():
            raise NonFiniteAction(f"actions must be finite, got {wanted}")
        given = wanted.astype(self.action_space.dtype)
        if given.dtype.kind in "iu" and (given != wanted).any():
            raise UserError(f"choices must be whole numbers, got {wanted}")
        rows = _rows_of(given, self.single_action_space)
        step = self._env.step(torch.from_numpy(rows).unsqueeze(1))
        obs, reward = _worlds(step.next_obs), _worlds(step.reward).astype(np.float64)
        terminated, truncated = _worlds(step.terminated), _worlds(step.truncated)
        metrics = {name: _worlds(values) for name, values in step.metrics.items()}
        ended = terminated | truncated
        infos: dict[str, Any] = {**_masked(metrics, ~ended)}
        if ended.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            for world in np.flatnonzero(ended):
                final_obs[world] = obs[world].copy()
            infos |= {"final_obs": final_obs, "_final_obs": ended.copy()}
            infos |= {"final_info": _masked(metrics, ended), "_final_info": ended.copy()}
            obs = _worlds(self._env.reset_ended())
        return obs, reward, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """End the simulator's threads or processes."""
        self._end()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this vector environment is closed; make another")

    def _draw(self) -> Tasks:
        generator = torch.Generator().manual_seed(int(self.np_random.integers(2**62)))
        try:
            return self._distribution.sample(self.num_envs, self._split, generator)
        except UserError as error:
            raise UserError(
                f"cannot draw a {self._split} task for each of num_envs={self.num_envs} worlds "
                f"(lower it, or give tasks, which may repeat): {error}"
            ) from error

    def _checked(self, tasks: Tasks) -> Tasks:
        if not isinstance(tasks, Tasks) or tasks.family != self._distribution.family:
            raise UserError(f"tasks must be Tasks of the family {self._distribution.family}")
        if len(tasks) != self.num_envs:
            raise UserError(
                f"{len(tasks)} tasks do not fit num_envs={self.num_envs}: one for each world"
            )
        known = self._distribution.tasks(self._split)
        if other := sorted({*tasks.names} - {*known.names}):
            raise UserError(f"these worlds play {', '.join({*known.names})}, not {other[0]}")
        if tasks.params.shape[1] != known.params.shape[1]:
            raise UserError(
                f"a task of these worlds has {known.params.shape[1]} numbers, these have "
                f"{tasks.params.shape[1]}; give tasks of a family with the same settings"
            )
        return tasks


def _worlds(values: Tensor) -> Array:
    """Return a copy of what one copy of each task brought, without the copies' axis."""
    return values.squeeze(1).numpy().copy()


def _masked(metrics: dict[str, Array], where: NDArray[np.bool_]) -> dict[str, Array]:
    """Return metrics with Gymnasium's masks, and zero where these are false."""
    infos: dict[str, Array] = {}
    for name, values in metrics.items():
        infos[name], infos[f"_{name}"] = np.where(where, values, 0).astype(values.dtype), where
    return infos


def _as_acted(space: Space) -> Box | Discrete | MultiDiscrete:
    """Return the space that is acted in: choices as they are, any other action as a row."""
    return space if isinstance(space, Discrete | MultiDiscrete) else _as_rows(space)


def _rows_of(actions: Array, space: Space) -> NDArray[np.float32]:
    """Return each world's action as the simulators take it: of choices one-hots side by side.

    Raises:
        UserError: A choice is none of the space's.
    """
    if isinstance(space, Box):
        return actions
    for action in actions:
        if not space.contains(action):
            raise UserError(f"actions must be in {space} for each world, got {action}")
    return np.array([flatten(space, action) for action in actions], dtype=np.float32)


def _as_rows(space: Space) -> Box:
    """Return the space of a value as a row of numbers, which the simulators give as float32."""
    box = flatten_space(space)
    assert isinstance(box, Box)
    return Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)
