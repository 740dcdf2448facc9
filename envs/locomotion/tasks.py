"""The tasks: which of Gymnasium's robots each has, and what varies. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Varies: TypeAlias = Literal["direction", "velocity", "goal", "heading", "dynamics"]
"""What the tasks of one name differ in; `distribution` draws it."""

FASTEST = {"half_cheetah_velocity": 2.0, "ant_velocity": 3.0}
"""Target velocities are uniform between 0 and this, in m/s (Finn et al. 2017, §5.3)."""
FARTHEST = 3.0
"""Goals are uniform in a disk of this radius, in metres."""
DYNAMICS_BASE = {
    "body_mass": 1.5,
    "body_inertia": 1.5,
    "dof_damping": 1.3,
    "geom_friction": 1.5,
}
"""Fields of MuJoCo's model that vary. Each number is multiplied by its base to a power that is
uniform in [-3, 3], as in dennisl88/rand_param_envs, whose damping has the smaller base."""
DYNAMICS_LIMIT = 3.0


@dataclass(frozen=True)
class Robot:
    """One of Gymnasium's environments, with sizes that are known before it is made."""

    id: str
    action_size: int
    bodies: int = 0
    """Of its model, the world included; needed where the dynamics vary, as are the next two."""
    joints: int = 0
    """Degrees of freedom."""
    geoms: int = 0

    @property
    def dynamics_sizes(self) -> dict[str, int]:
        """Numbers in each field of the model that varies."""
        return {
            "body_mass": self.bodies,
            "body_inertia": 3 * self.bodies,
            "dof_damping": self.joints,
            "geom_friction": 3 * self.geoms,
        }


@dataclass(frozen=True)
class TaskKind:
    """The tasks of one name."""

    robot: Robot
    varies: Varies
    observation_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """What Gymnasium's environment is made with, beside its defaults."""


HALF_CHEETAH = Robot("HalfCheetah-v5", 6, bodies=8, joints=9, geoms=9)
ANT = Robot("Ant-v5", 8)
HUMANOID = Robot("Humanoid-v5", 17)
WALKER = Robot("Walker2d-v5", 6, bodies=8, joints=9, geoms=8)
HOPPER = Robot("Hopper-v5", 3, bodies=5, joints=6, geoms=5)

_CHEETAH = {"ctrl_cost_weight": 0.05}  # 0.5 * 1e-1 in all three papers' code
_ANT = {"ctrl_cost_weight": 0.005}  # 0.5 * 1e-2 in cbfinn/maml_rl
_ANT_GOAL = {
    "ctrl_cost_weight": 0.1,
    "terminate_when_unhealthy": False,
    "exclude_current_positions_from_observation": False,
}

TASKS: dict[str, TaskKind] = {
    "half_cheetah_direction": TaskKind(HALF_CHEETAH, "direction", 17, _CHEETAH),
    "half_cheetah_velocity": TaskKind(HALF_CHEETAH, "velocity", 17, _CHEETAH),
    "half_cheetah_dynamics": TaskKind(HALF_CHEETAH, "dynamics", 17, _CHEETAH),
    "ant_direction": TaskKind(ANT, "direction", 105, _ANT),
    "ant_velocity": TaskKind(ANT, "velocity", 105, _ANT),
    "ant_goal": TaskKind(ANT, "goal", 107, _ANT_GOAL),
    "humanoid_direction": TaskKind(HUMANOID, "heading", 348),
    "walker2d_dynamics": TaskKind(WALKER, "dynamics", 17),
    "hopper_dynamics": TaskKind(HOPPER, "dynamics", 11),
}
