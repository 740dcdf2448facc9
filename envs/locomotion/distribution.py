"""Locomotion as a task distribution."""

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from envs._drawn import DrawnFamily, evenly
from envs.locomotion.config import Config
from envs.locomotion.tasks import (
    DYNAMICS_BASE,
    DYNAMICS_LIMIT,
    FARTHEST,
    FASTEST,
    TASKS,
)
from meta_rl.core.protocols import ALL_TASKS, Split, TaskEnv
from meta_rl.core.types import EnvSpec, Tasks
from meta_rl.rollouts.warp.presence import check_warp, warn_of_slowness, warp_versions

METRICS = {"gymnasium": (), "native": ("diverged",), "warp": ("diverged", "overflow")}
DIRECTIONS = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
"""Backward and forward along the x axis."""


class Locomotion(DrawnFamily):
    """Gymnasium's MuJoCo robots (v5 models), each with a task that its observation hides.

    v is the mean velocity of the torso over a step (of the centre of mass for the humanoid) in
    m/s, a the action in [-1, 1], u the controls it becomes, f the forces on the bodies from
    contacts (`cfrc_ext`).

    Task, by name, and its reward a step:
      `half_cheetah_direction`: d in {-1, 1}; d v - 0.05 |a|².
      `half_cheetah_velocity`: v* uniform in [0, 2]; -|v - v*| - 0.05 |a|².
      `ant_direction`: d in {-1, 1}; d v - 0.005 |a|² - 0.0005 |clip(f, ±1)|² + 0.05.
      `ant_velocity`: v* uniform in [0, 3]; 1 - |v - v*| and the same three terms.
      `ant_goal`: g uniform in the disk of radius 3 m; the torso's distance to g in the 1-norm,
        negative, - 0.1 |a|² - 0.0005 |clip(f, ±1)|².
      `humanoid_direction`: h, uniform on the unit circle; 1.25 h·v - 0.1 |u|² - min(5e-7 |f|²,
        10) + 5.
      `half_cheetah_dynamics`: factors of body masses and inertias, joint dampings and geom
        frictions; v - 0.05 |a|².
      `walker2d_dynamics`, `hopper_dynamics`: such factors; v - 0.001 |a|² + 1.
    Observation: Gymnasium's: positions without x (and y), velocities, for ant and humanoid contact
      forces and more; `ant_goal` sees x and y too.
    Action: torques as a fraction of the robot's bounds, clipped to [-1, 1].
    Episode: ends at the horizon; ant, humanoid, walker and hopper also terminate where Gymnasium
      calls them unhealthy, `ant_goal` never does. Resets draw positions and velocities around the
      initial ones, as Gymnasium does.
    Metric `diverged` (native and warp): 1 on a step that was cut because MuJoCo went unstable.
    Metric `overflow` (warp): 1 on a step with more contacts than MuJoCo Warp keeps memory for.

    Rewards of the cheetah and of the ant's direction and velocity are those of the MAML authors
    (cbfinn/maml_rl), of the ant's goal and the humanoid those of ProMP (jonasrothfuss/ProMP) and
    PEARL (katerakelly/oyster), random dynamics those of dennisl88/rand_param_envs, which both use.
    Differs from them: the models and observations are Gymnasium's v5, and ProMP and PEARL draw the
    cheetah's velocity up to 3 m/s.
    """

    family = "locomotion"

    def __init__(self, config: Config) -> None:
        if config.simulator == "warp":
            check_warp()
        self.config = config
        self._kind = TASKS[config.task]
        # Between two directions the robot would go slower, not elsewhere.
        self.between_tasks = self._kind.varies not in ("direction", "heading")
        actions = self._kind.robot.action_size
        self.spec = EnvSpec.box(
            self._kind.observation_size,
            (-1.0,) * actions,
            (1.0,) * actions,
            config.horizon,
            self.family,
            metrics=METRICS[config.simulator],
        )
        super().__init__(
            config.task,
            config.test_tasks,
            config.validation_tasks,
            config.task_seed,
            stream=f"{self.family}/{config.task}",
        )

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw some tasks; of two directions, each as often as the other, or once more."""
        if self._kind.varies != "direction":
            return super().sample(count, split, generator)
        return evenly(self.tasks(split), count, generator)

    def tasks(self, split: Split) -> Tasks:
        """Return the fixed tasks of a split; of two directions both, whatever the split."""
        if self._kind.varies != "direction":
            return super().tasks(split)
        return Tasks(self.family, (self.config.task,) * 2, torch.arange(2), DIRECTIONS.clone())

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make the simulator that the config names."""
        if self.config.simulator == "native":
            from envs.locomotion.native.task_env import NativeLocomotion

            return NativeLocomotion(self.config.task, self.spec, device, workers)
        if self.config.simulator == "warp":
            warn_of_slowness(device)
            from envs.locomotion.warp.task_env import WarpLocomotion

            return WarpLocomotion(self.config.task, self.spec, device)
        from envs.locomotion.gymnasium_face import LocomotionFamily
        from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv

        return GymnasiumTaskEnv(LocomotionFamily(), self.spec, device, workers)

    def protocol(self) -> Mapping[str, Any]:
        """Return the task, what is held out, and the versions of what simulates it."""
        config = self.config
        if self._kind.varies == "direction":
            held_out: dict[str, Any] = {ALL_TASKS: "both directions are in every split"}
        else:
            held_out = {"test_tasks": config.test_tasks, "task_seed": config.task_seed}
        return {
            "task": config.task,
            "horizon": config.horizon,
            **held_out,
            **(warp_versions() if config.simulator == "warp" else {}),
            "gymnasium": version("gymnasium"),
            "mujoco": version("mujoco"),
        }

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw tasks that have no end of others."""

        def uniform(size: int) -> Float64[Tensor, "M P"]:
            return torch.rand(count, size, generator=generator, dtype=torch.float64)

        match self._kind.varies:
            case "velocity":
                return FASTEST[self.config.task] * uniform(1)
            case "goal":
                return FARTHEST * uniform(1).sqrt() * _unit(uniform(1))
            case "heading":
                return _unit(uniform(1))
            case _:
                factors = [
                    DYNAMICS_BASE[name] ** (DYNAMICS_LIMIT * (2 * uniform(size) - 1))
                    for name, size in self._kind.robot.dynamics_sizes.items()
                ]
                return torch.cat(factors, dim=1)


def _unit(turn: Float64[Tensor, "M 1"]) -> Float64[Tensor, "M 2"]:
    """Return the unit vector at a share of a full turn."""
    angle = 2 * math.pi * turn
    return torch.cat([angle.cos(), angle.sin()], dim=1)
