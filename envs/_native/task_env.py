"""Meta-World's `TaskEnv` in this process: worlds on threads, no worker processes."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from envs._native.compiling import compiled
from envs._native.engine import Engine
from envs._native.picture import PictureMaker
from envs._native.row import OBS, OBSERVATION_SIZE, REWARD, SUCCESS
from envs._native.scene import scene
from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.types import EnvSpec, Picture, Step, Tasks

OBSERVATION = slice(OBS, OBS + OBSERVATION_SIZE)


class NativeTaskEnv:
    """A `TaskEnv` over the native engine.

    World `w = m * N + n` is copy n of task m. A world whose simulation diverges is cut: its step
    is truncated, with zero reward, the observation of the step before, and 1 in the metric
    `diverged`. A world that ended and is stepped nevertheless stays as it is, with zero reward
    and metrics.

    Args:
        goal_sizes: How many of a task's params are its goal, by task name.
        threads: How many cores to use, this process's own included.
    """

    def __init__(
        self,
        reward_version: str,
        goal_sizes: Mapping[str, int],
        spec: EnvSpec,
        device: torch.device,
        threads: int,
    ) -> None:
        if threads < 1:
            raise UserError(f"threads must be at least 1, got {threads}")
        self._reward_version = reward_version
        self._goal_sizes = goal_sizes
        self._horizon = spec.horizon
        self._device = device
        self._engine = Engine(threads)
        self._tasks: Tasks | None = None
        self._copies = 0
        self._picture_maker: PictureMaker | None = None
        self._episode_steps: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._obs: NDArray[np.float32] = np.zeros((0, OBSERVATION_SIZE), dtype=np.float32)

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations.

        Meta-World has no chance in it, so the seed changes nothing.
        """
        if len(tasks) * copies < 1:
            raise UserError(f"no worlds to start: {len(tasks)} tasks with {copies} copies each")
        worlds = []
        for task in tasks:
            goal_size = self._goal_sizes[task.name]
            its_scene = scene(task.name, self._reward_version, goal_size)
            worlds += [(its_scene, its_scene.snapshot(task.params[:goal_size]))] * copies
        self._tasks, self._copies = tasks, copies
        self._close_picture_maker()
        self._engine.place(worlds)
        self._episode_steps = np.zeros(len(worlds), dtype=np.int64)
        self._obs = self._engine.rows[:, OBSERVATION].astype(np.float32)
        return self._shape(self._obs)

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Step all worlds once, with the action clipped to its bounds."""
        engine = self._started()
        drawn = action.detach().to("cpu", torch.float32).reshape(engine.actions.shape).numpy()
        if not np.isfinite(drawn).all():
            raise NonFiniteAction(self._describe_non_finite(drawn))
        np.clip(drawn, -1.0, 1.0, out=engine.actions)
        engine.step()
        worlds = len(drawn)
        self._obs, before = np.empty_like(self._obs), self._obs
        reward, success, cut = np.empty((3, worlds), dtype=np.float32)
        truncated = np.empty(worlds, dtype=np.bool_)
        settle(
            engine.rows,
            engine.outputs,
            engine.diverged,
            engine.frozen,
            self._episode_steps,
            self._horizon,
            before,
            self._obs,
            reward,
            success,
            cut,
            truncated,
        )
        return Step(
            next_obs=self._shape(self._obs),
            reward=self._shape(reward),
            terminated=self._shape(np.zeros(worlds, dtype=np.bool_)),
            truncated=self._shape(truncated),
            metrics={"success": self._shape(success), "diverged": self._shape(cut)},
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
            self._obs[ended] = engine.rows[ended, OBSERVATION]
        return self._shape(self._obs)

    def draw(self) -> Picture:
        """Return a picture of the first world as it is now, drawn by metaworld's environment."""
        engine = self._started()
        if self._picture_maker is None:
            assert self._tasks is not None
            (task,) = self._tasks[:1]
            self._picture_maker = PictureMaker(
                task.name, self._reward_version, task.params[: self._goal_sizes[task.name]]
            )
        return self._picture_maker.draw(engine.states[0])

    def close(self) -> None:
        """End the threads and release the simulators."""
        self._tasks = None
        self._close_picture_maker()
        self._engine.close()

    def _close_picture_maker(self) -> None:
        if self._picture_maker is not None:
            self._picture_maker.close()
            self._picture_maker = None

    def _started(self) -> Engine:
        if self._tasks is None:
            raise RuntimeError("call start() before any other method of NativeTaskEnv")
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
    rows,
    outputs,
    diverged,
    frozen,
    episode_steps,
    horizon,
    before,
    obs,
    reward,
    success,
    cut,
    truncated,
):
    """Tell what a step has made of each world, and freeze those whose episode ends with it."""
    for world in range(len(frozen)):
        live = not frozen[world]
        good = live and not diverged[world]
        for place in range(OBSERVATION_SIZE):
            obs[world, place] = rows[world, OBS + place] if good else before[world, place]
        reward[world] = outputs[world, REWARD] if good else 0.0
        success[world] = outputs[world, SUCCESS] if good else 0.0
        cut[world] = 1.0 if live and diverged[world] else 0.0
        if live:
            episode_steps[world] += 1
        if diverged[world] or episode_steps[world] >= horizon:
            frozen[world] = True
        truncated[world] = frozen[world]
