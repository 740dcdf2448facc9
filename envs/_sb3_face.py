"""The simulators as a Stable-Baselines3 `VecEnv`."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from envs._faces import Array, TaskVectorEnv, make_vec
from meta_rl.core.errors import UserError


def make_sb3(*args: Any, **kwargs: Any) -> "TaskVecEnv":
    """Return worlds of a family's tasks for Stable-Baselines3; arguments as for `make_vec`."""
    return TaskVecEnv(make_vec(*args, **kwargs))


class TaskVecEnv(VecEnv):
    """A Stable-Baselines3 vector environment over any family's simulator.

    Infos hold the family's metrics of the step; those of an episode's last step also
    `terminal_observation`, `TimeLimit.truncated`, and `is_success`: whether any of its steps was.
    `set_options({"resample": True})` has the next `reset` draw other tasks, and
    `set_options({"tasks": ...})` sets them.

    The worlds are rows of one simulator, not environments: each has the attributes `task`,
    `observation_space`, `action_space`, `render_mode` and `spec`, and no methods.
    """

    def __init__(self, env: TaskVectorEnv) -> None:
        self._env = env
        self._actions: Array | None = None
        self._succeeded: NDArray[np.bool_] = np.zeros(env.num_envs, dtype=np.bool_)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Array:
        """Begin a new episode in every world, with the seed and the options set before."""
        options = self._options[0]
        if any(other is not options and (other or options) for other in self._options):
            raise UserError(
                "options for single worlds do not exist; give set_options one dictionary for all"
            )
        obs, _ = self._env.reset(seed=self._seeds[0], options=options)
        self._succeeded[:] = False
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: Array) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every world once; where that ends an episode, begin the next."""
        assert self._actions is not None, "call step_async() first"
        obs, reward, terminated, truncated, vector_infos = self._env.step(self._actions)
        done = terminated | truncated
        metrics = {name: vector_infos[name] for name in self._env.metric_names}
        if done.any():
            final = vector_infos["final_info"]
            metrics = {name: np.where(done, final[name], metrics[name]) for name in metrics}
        columns = {name: values.tolist() for name, values in metrics.items()}
        infos: list[dict[str, Any]] = [
            {name: column[world] for name, column in columns.items()}
            | {"TimeLimit.truncated": time_limit}
            for world, time_limit in enumerate((truncated & ~terminated).tolist())
        ]
        if "success" in metrics:
            self._succeeded |= metrics["success"] > 0
        for world in np.flatnonzero(done):
            infos[world]["terminal_observation"] = vector_infos["final_obs"][world]
            if "success" in metrics:
                infos[world]["is_success"] = bool(self._succeeded[world])
        self._succeeded[done] = False
        return obs, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """End the simulator's threads or processes."""
        self._env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each world; the class's docstring lists them."""
        worlds = list(self._get_indices(indices))
        if attr_name == "task":
            tasks = list(self._env.tasks)
            return [tasks[world] for world in worlds]
        shared = {
            "observation_space": self._env.single_observation_space,
            "action_space": self._env.single_action_space,
            "render_mode": None,
            "spec": None,
        }
        if attr_name not in shared:
            known = ", ".join(["task", *shared])
            raise AttributeError(f"worlds have no attribute {attr_name!r}; they have: {known}")
        return [shared[attr_name]] * len(worlds)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: worlds have nothing to set but their task, which `set_options` gives."""
        raise AttributeError(
            f"cannot set {attr_name!r} of a world; for other tasks, "
            f'set_options({{"tasks": ...}}) and reset()'
        )

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Refuse: worlds have no methods."""
        raise AttributeError(f"worlds are rows of one simulator: no method {method_name!r}")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Return that no world is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Array | None]:
        """Return nothing for each world: they cannot be rendered."""
        return [None] * self.num_envs
