"""2-D navigation in worlds where something goes wrong as often as it is told to."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from envs import point_navigation
from envs.point_navigation import PointEnv, PointNavigation


@dataclass(frozen=True)
class Config(point_navigation.Config):
    """Worlds with a goal to the right have mishaps, so many in all processes together."""

    kind: str = "raise"
    """What goes wrong at the third step: `raise`, `hang` or `die`."""
    times: int = 0
    """How often it does."""
    folder: str = ""
    """Where processes count the times."""


class Mishaps(PointNavigation):
    family = "toys.mishaps"

    def make_env(self, device, workers):
        return MishapEnv(self.config, device)


class MishapEnv(PointEnv):
    def start(self, tasks, copies, seed):
        self.to_the_right = bool((tasks.params[:, 0] > 0).any())
        return super().start(tasks, copies, seed)

    def step(self, action):
        if self.time.max() == 2 and self.to_the_right and self.is_due():
            if self.config.kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.config.kind == "hang":
                time.sleep(1000)
            raise RuntimeError("the arm is stuck")
        return super().step(action)

    def is_due(self):
        for time_ in range(self.config.times):
            try:
                (Path(self.config.folder) / str(time_)).touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def build(config):
    return Mishaps(config)
