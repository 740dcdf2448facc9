"""Meta-World's meta-learning benchmarks (Yu et al. 2020; McLean et al. 2025).

`distribution` is the family, `native` its simulator, and `gymnasium_face` metaworld's own
environments: the reference that `parity` compares the simulator with. `scripted_policies` makes
the family's expert, `camera` draws, and `legacy` lets metaworld count successes its own way.
"""

from typing import TYPE_CHECKING

from envs.metaworld.config import BENCHMARKS, MAX_HORIZON, SIMULATORS, TASK_NAMES, Config

if TYPE_CHECKING:  # worker processes import this package and must not load torch
    from envs.metaworld.distribution import MetaworldDistribution
    from meta_rl.core.protocols import Expert

__all__ = ["BENCHMARKS", "MAX_HORIZON", "SIMULATORS", "TASK_NAMES", "Config", "build", "expert"]


def build(config: Config) -> "MetaworldDistribution":
    """Return the benchmark that a config describes; its goals come from metaworld itself."""
    from envs.metaworld.distribution import MetaworldDistribution
    from envs.metaworld.goals import benchmark_goals

    return MetaworldDistribution(config, benchmark_goals(config))


def expert() -> "Expert":
    """Return Meta-World's scripted policies, for all 50 classes."""
    from envs.metaworld.scripted_policies import MetaworldExpert

    return MetaworldExpert()
