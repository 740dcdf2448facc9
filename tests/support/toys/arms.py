"""Arms under lamps: a family of discrete observations and actions, in worker processes."""

from dataclasses import dataclass

import torch
from gymnasium.spaces import Discrete

from meta_rl.core.types import RETURN, SUCCESS, EnvSpec, Task, Tasks
from meta_rl.rollouts.collector import SimulatedFamily
from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv
from toys.arms_worlds import ARMS, LAMPS, ArmsFamily

FIRST = {"train": 0, "test": 100, "validation": 200}


@dataclass(frozen=True)
class Config:
    """Pull the arm that goes with the lamp."""

    horizon: int = 6
    """Pulls of an episode."""


class Arms(SimulatedFamily):
    """Task: the arm that earns 1 under each lamp; all others earn 0."""

    family = "toys.arms"

    def __init__(self, config):
        self.spec = EnvSpec(
            Discrete(LAMPS),
            Discrete(ARMS, start=5),
            config.horizon,
            self.family,
            ("success",),
            (RETURN, SUCCESS),
        )

    def sample(self, count, split, generator):
        tasks = self.tasks(split)
        return tasks[torch.randint(len(tasks), (count,), generator=generator).tolist()]

    def tasks(self, split):
        params = [(float(n % ARMS), float(n // ARMS)) for n in range(ARMS**LAMPS)]
        first = FIRST[split]
        return Tasks.stack(
            [Task(self.family, "arms", first + n, each) for n, each in enumerate(params)]
        )

    def make_env(self, device, workers):
        return GymnasiumTaskEnv(ArmsFamily(), self.spec, device, workers)

    def protocol(self):
        return {"horizon": self.spec.horizon}


def build(config):
    return Arms(config)
