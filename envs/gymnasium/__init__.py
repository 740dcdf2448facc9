"""Any Gymnasium environment as a distribution of tasks, from a config alone.

`config` says what there is to choose, `variation` reads what tasks differ by and cuts it into
splits, `environment` makes and changes the environments in worker processes, and `distribution`
is the family.
"""

from typing import TYPE_CHECKING

from envs.gymnasium.config import Config

if TYPE_CHECKING:  # worker processes import this package and must not load torch
    from envs.gymnasium.distribution import GymnasiumDistribution

__all__ = ["EXAMPLE", "Config", "build"]

EXAMPLE = Config(
    id="Pendulum-v1",
    vary=[{"attribute": "m", "scale": [0.5, 2.0]}],
    success={"episode_return": -200},
)
"""A config for those who try every family, since an environment has no default."""


def build(config: Config) -> "GymnasiumDistribution":
    """Return the tasks that a config describes; makes one environment, to see its spaces."""
    from envs.gymnasium.distribution import GymnasiumDistribution

    return GymnasiumDistribution(config)
