"""Locomotion: Gymnasium's MuJoCo robots with the tasks of the MAML, ProMP and PEARL papers.

`tasks` says what varies in each task, `distribution` is the family, `native` its simulator, and
`gymnasium_face` Gymnasium's own environments: the reference that the native one equals.
"""

from typing import TYPE_CHECKING

from envs.locomotion.config import SIMULATORS, Config
from envs.locomotion.tasks import TASKS

if TYPE_CHECKING:  # worker processes import this package and must not load torch
    from envs.locomotion.distribution import Locomotion

__all__ = ["SIMULATORS", "TASKS", "Config", "build"]


def build(config: Config) -> "Locomotion":
    """Return the tasks that a config describes."""
    from envs.locomotion.distribution import Locomotion

    return Locomotion(config)
