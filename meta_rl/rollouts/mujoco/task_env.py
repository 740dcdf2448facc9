"""A `TaskEnv` of MuJoCo worlds in this process: on threads, no worker processes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.seeding import world_seeds
from meta_rl.core.types import EnvSpec, Step, Task, Tasks
from meta_rl.rollouts.mujoco.compiling import compiled
from meta_rl.rollouts.mujoco.engine import Array, Engine
from meta_rl.rollouts.mujoco.row import WorldFormat
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot


class MujocoTaskEnv(ABC):
    """A `TaskEnv` over the engine; a family says what world each task is, by `world`.

    World `w = m * N + n` is copy n of task m. A world whose simulation diverges is cut: its step
    is truncated, with zero reward, the observation of the step before, and 1 in the metric
    `diverged`. A world that ended and is stepped nevertheless stays as it is, with zero reward
    and metrics. Episodes end where their reward says that they terminate, and at the horizon.

    Args:
        threads: How many cores to use, this process's own included.
    """

    changes_within_episodes = True

    def __init__(
        self, world_format: WorldFormat, spec: EnvSpec, device: torch.device, threads: int
    ) -> None:
        if threads < 1:
            raise UserError(f"threads must be at least 1, got {threads}")
        self.metric_names = (*world_format.metrics, "diverged")
        self._format = world_format
        self._low, self._high = np.array(spec.action_bounds, dtype=np.float32)
        self._horizon = spec.horizon
        self._device = device
        self._engine = Engine(world_format, threads)
        self._tasks: Tasks | None = None
        self._first_task: Task | None = None
        """What world 0 is now: it is the one that is drawn."""
        self._copies = 0
        self._terminated_place = -1 if world_format.terminated is None else world_format.terminated
        self._metric_places = np.array(list(world_format.metrics.values()), dtype=np.int64)
        self._episode_steps: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._obs: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self._terminated: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    @abstractmethod
    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene that a task is in, and the snapshot that its episodes begin with."""

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations.

        The seed changes nothing where a scene begins all episodes alike.
        """
        if len(tasks) * copies < 1:
            raise UserError(f"no worlds to start: {len(tasks)} tasks with {copies} copies each")
        worlds = [world for task in tasks for world in [self.world(task)] * copies]
        self._tasks, self._copies = tasks, copies
        self._first_task = next(iter(tasks))
        chance = any(scene.starts_at_random for scene, _ in worlds)
        self._engine.place(worlds, world_seeds(seed, tasks, copies) if chance else ())
        self._terminated = np.zeros(len(worlds), dtype=np.bool_)
        self._episode_steps = np.zeros(len(worlds), dtype=np.int64)
        self._obs = self._engine.rows[:, self._format.observation].astype(np.float32)
        return self._shape(self._obs)

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Step all worlds once, with the action clipped to its bounds."""
        engine = self._started()
        drawn = action.detach().to("cpu", torch.float32).reshape(engine.actions.shape).numpy()
        if not np.isfinite(drawn).all():
            raise NonFiniteAction(self._describe_non_finite(drawn))
        np.clip(drawn, self._low, self._high, out=engine.actions)
        engine.step()
        worlds = len(drawn)
        self._obs, before = np.empty_like(self._obs), self._obs
        self._terminated = self._terminated.copy()  # the tensor of the last step has the other
        reward, cut = np.empty((2, worlds), dtype=np.float32)
        metrics = np.empty((len(self._metric_places), worlds), dtype=np.float32)
        truncated = np.empty(worlds, dtype=np.bool_)
        settle(
            engine.rows,
            engine.outputs,
            engine.diverged,
            engine.frozen,
            self._format.observation.start,
            self._metric_places,
            self._terminated_place,
            self._episode_steps,
            self._horizon,
            before,
            self._obs,
            reward,
            metrics,
            cut,
            self._terminated,
            truncated,
        )
        return Step(
            next_obs=self._shape(self._obs),
            reward=self._shape(reward),
            terminated=self._shape(self._terminated),
            truncated=self._shape(truncated),
            metrics={
                name: self._shape(values)
                for name, values in zip(self.metric_names, [*metrics, cut], strict=True)
            },
        )

    def reset_ended(self) -> Float[Tensor, "M N O"]:
        """Begin a new episode where the last step ended one; return all current observations."""
        engine = self._started()
        ended = np.flatnonzero(engine.frozen)
        if len(ended):
            engine.restore(ended)
            engine.frozen[ended] = False
            self._episode_steps[ended] = 0
            self._obs = self._obs.copy()  # the tensor of the last step may share its memory
            self._obs[ended] = engine.rows[ended, self._format.observation]
        return self._shape(self._obs)

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Turn worlds into other tasks; see `ChangingTaskEnv`."""
        engine = self._started()
        for world, task in zip(worlds, tasks, strict=True):
            if world == 0:
                self._first_task = task
            fresh = self._episode_steps[world] == 0
            engine.frozen[world] |= fresh
            engine.change(world, *self.world(task), restarts=bool(engine.frozen[world]))

    def close(self) -> None:
        """End the threads and release the simulators."""
        self._tasks = None
        self._engine.close()

    def _started(self) -> Engine:
        if self._tasks is None:
            raise RuntimeError(f"call start() before any other method of {type(self).__name__}")
        return self._engine

    def _shape(self, worlds: NDArray[np.generic]) -> Tensor:
        """Return a value of each world on the device, as (M, N, ...)."""
        tensor = torch.from_numpy(worlds).to(self._device)
        return tensor.reshape(-1, self._copies, *worlds.shape[1:])

    def _describe_non_finite(self, actions: NDArray[np.float32]) -> str:
        assert self._tasks is not None
        worlds = np.flatnonzero(~np.isfinite(actions).all(axis=1))
        labels = [self._tasks[[task]] for task in sorted({int(w) // self._copies for w in worlds})]
        names = [task.label for (task,) in labels]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
        return (
            f"actions for {len(worlds)} of {len(actions)} worlds are not finite, in tasks {shown}; "
            f"either the policy has diverged (a lower inner_lr or learning rate may help), or an "
            f"observation or reward that it was shown was not finite"
        )


@compiled
def settle(
    rows: Array,
    outputs: Array,
    diverged: Array,
    frozen: Array,
    observation_start: int,
    metric_places: Array,
    terminated_place: int,
    episode_steps: Array,
    horizon: int,
    before: Array,
    obs: Array,
    reward: Array,
    metrics: Array,
    cut: Array,
    terminated: Array,
    truncated: Array,
) -> None:
    """Tell what a step has made of each world, and freeze those whose episode ends with it."""
    for world in range(len(frozen)):
        live = not frozen[world]
        good = live and not diverged[world]
        for place in range(obs.shape[1]):
            seen = rows[world, observation_start + place]
            obs[world, place] = seen if good else before[world, place]
        reward[world] = outputs[world, 0] if good else 0.0
        for metric in range(len(metric_places)):
            metrics[metric, world] = outputs[world, metric_places[metric]] if good else 0.0
        cut[world] = 1.0 if live and diverged[world] else 0.0
        if live:
            episode_steps[world] += 1
            terminated[world] = (
                good and terminated_place >= 0 and outputs[world, terminated_place] > 0.0
            )
        if terminated[world] or diverged[world] or episode_steps[world] >= horizon:
            frozen[world] = True
        truncated[world] = frozen[world] and not terminated[world]
