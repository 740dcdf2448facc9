"""What there is to choose about locomotion."""

from dataclasses import dataclass

from envs.locomotion.tasks import TASKS
from meta_rl.core.checks import check_at_least
from meta_rl.core.errors import UserError, what_there_is

SIMULATORS = ("native", "gymnasium", "warp")


@dataclass(frozen=True)
class Config:
    """Locomotion: MuJoCo robots whose task is not shown to them (Finn et al. 2017, §5.3)."""

    task: str = "half_cheetah_velocity"
    """Robot and task: half_cheetah_direction, half_cheetah_velocity, half_cheetah_dynamics,
    ant_direction, ant_velocity, ant_goal, humanoid_direction, walker2d_dynamics or
    hopper_dynamics."""
    horizon: int = 200
    """Environment steps after which an episode is truncated (T), at least 1; 200 in the papers."""
    test_tasks: int = 40
    """Tasks of the test split, at least 1. An evaluation on the train split has as many. Families
    of two directions have only these two tasks, in every split."""
    validation_tasks: int = 20
    """Tasks of the validation split, at least 1, by which the best checkpoint is chosen."""
    task_seed: int = 0
    """Seed of the held-out tasks, at least 0, independent of the run's seed."""
    simulator: str = "native"
    """`native` steps MuJoCo's C library on threads, with compiled rewards. `gymnasium` steps
    Gymnasium's own environments in worker processes: the reference, equal bit for bit and slower.
    `warp` steps MuJoCo Warp on the GPU that --device names (needs the extra `gpu`)."""

    def __post_init__(self) -> None:
        for name, known in (("task", tuple(TASKS)), ("simulator", SIMULATORS)):
            given = getattr(self, name)
            if given not in known:
                raise UserError(f"no {name} {given!r} in locomotion; {what_there_is(given, known)}")
        check_at_least(1, self, "horizon", "test_tasks", "validation_tasks", where="envs")
        check_at_least(0, self, "task_seed", where="envs")
