"""What there is to choose about Meta-World."""

from collections.abc import Sequence
from dataclasses import dataclass

from meta_rl.core.errors import UserError, what_there_is

BENCHMARKS = ("ML1", "ML10", "ML25", "ML45", "CW10")
CW10 = (
    "hammer-v3",
    "push-wall-v3",
    "faucet-close-v3",
    "push-back-v3",
    "stick-pull-v3",
    "handle-press-side-v3",
    "push-v3",
    "shelf-place-v3",
    "window-close-v3",
    "peg-unplug-side-v3",
)
"""The tasks of Continual World (Wolczyk et al. 2021) in their order; there they are v1's."""
REWARD_VERSIONS = ("v1", "v2")
SIMULATORS = ("native", "gymnasium", "warp")
MAX_HORIZON = 500
"""Meta-World's environments refuse to be stepped any longer."""
GOALS_PER_SET = 50
"""How many goals Meta-World draws for each task name and split."""
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


@dataclass(frozen=True)
class Config:
    """Meta-World: a robot arm, and goals that it cannot see (Yu et al. 2020)."""

    benchmark: str = "ML1"
    """`ML1` varies the goal of one task. `ML10`, `ML25` and `ML45` train on that many tasks and
    hold out 5. metaworld's ML25 also trains on one of its 5, basketball-v3, with other goals.
    `CW10` has the ten tasks of Continual World in order, and holds out goals of each."""
    task: str = "reach-v3"
    """Task of ML1, one of Meta-World's 50. The other benchmarks ignore it."""
    reward_version: str = "v2"
    """Version of Meta-World's reward functions: v1 or v2."""
    horizon: int = MAX_HORIZON
    """Environment steps after which an episode is truncated (T), between 1 and 500."""
    goal_seed: int = 0
    """Seed of the train and test goals, at least 0. Validation goals have a seed derived from
    it."""
    train_goal_sets: int = 1
    """Sets of 50 train goals for each task name, at least 1. They are drawn with seeds goal_seed,
    goal_seed + 2 and so on. The test goals stay the same. The benchmarks have one set."""
    simulator: str = "native"
    """`native` steps MuJoCo's C library on threads, with compiled rewards. `gymnasium` runs
    metaworld's own code in worker processes: the reference, and several times slower. `warp` steps
    MuJoCo Warp on the GPU that --device names (needs the extra `gpu`)."""

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
                f"goal_seed must be between 0 and 2**32 - 2, and so must the last seed of "
                f"train_goal_sets, got {self.goal_seed} to {last}"
            )


def _check_name(field: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UserError(f"no {field} {given!r} in Meta-World; {what_there_is(given, known)}")
