"""Environments for `test_gymnasium_env.py`, in a module that workers import without torch."""

import multiprocessing
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import count
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from meta_rl.rollouts.gymnasium.worker import WorldTask

serial = count(1)
"""Numbers the environments made in one process."""


class Ledger(gymnasium.Env):
    """Observes `[task index, episode, step, noise]`; every number it reports says what it is.

    A task's only param is the step at which its episodes terminate; 0 is never.
    """

    observation_space = Box(-np.inf, np.inf, (4,), np.float64)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.serial = next(serial)

    def assign(self, task: WorldTask) -> None:
        self.task, self.episode = task, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> Any:
        return np.array([self.task.index, self.episode, self.steps, self.np_random.random()])

    def step(self, action):
        self.steps += 1
        reward = 100.0 * self.task.index + 10.0 * self.steps + float(action[0])
        info = {"serial": self.serial, "second_action": float(action[1])}
        return self.observe(), reward, self.steps == self.task.params[0], False, info


class Raises(Ledger):
    """Raises on its second step."""

    def step(self, action):
        if self.steps == 1:
            raise ValueError("the arm fell off")
        return super().step(action)


class KillsItself(Ledger):
    """Kills its process on its second step, as the kernel does when memory runs out."""

    def step(self, action):
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Hangs(Ledger):
    """Does not come back from its second step."""

    def step(self, action):
        if self.steps == 1:
            time.sleep(3600)
        return super().step(action)


class RewardsNaN(Ledger):
    """Rewards NaN."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float("nan"), terminated, truncated, info


class ObservesDict(Ledger):
    """Observes the ledger in two parts."""

    observation_space = Dict({"first": Box(-9, 9, (1,)), "rest": Box(-9, 9, (3,))})

    def observe(self) -> Any:
        obs = super().observe().astype(np.float32)
        return {"first": obs[:1], "rest": obs[1:]}


class ObservesMore(Ledger):
    """Observes one number more than it should."""

    observation_space = Box(-np.inf, np.inf, (5,), np.float64)


class ActsDiscretely(Ledger):
    """Takes discrete actions."""

    action_space = Discrete(2)


class HasHelper(Ledger):
    """Observes the number of a process that it has started, and ends with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = subprocess.Popen(["sleep", "600"])

    def observe(self) -> Any:
        return np.full(4, self.helper.pid)

    def close(self) -> None:
        self.helper.terminate()
        self.helper.wait()


class HasChild(HasHelper):
    """The same, with a process of multiprocessing's."""

    def __init__(self) -> None:
        Ledger.__init__(self)
        self.helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600])
        self.helper.start()

    def close(self) -> None:
        self.helper.terminate()
        self.helper.join()


class Draws(Ledger):
    """Draws a picture whose color is the task's index."""

    render_mode = "rgb_array"

    def render(self):
        return np.full((4, 6, 3), self.task.index, np.uint8)[::-1]


class DrawsGrey(Draws):
    """Draws without colors."""

    def render(self):
        return np.zeros((4, 6), np.uint8)


class DrawsFractions(Draws):
    """Draws colors as numbers between 0 and 1."""

    def render(self):
        return np.zeros((4, 6, 3))


CLASSES = {
    "ledger": Ledger,
    "other": Ledger,
    "raises": Raises,
    "kills-itself": KillsItself,
    "hangs": Hangs,
    "rewards-nan": RewardsNaN,
    "observes-dict": ObservesDict,
    "observes-more": ObservesMore,
    "acts-discretely": ActsDiscretely,
    "has-helper": HasHelper,
    "has-child": HasChild,
    "draws": Draws,
    "draws-grey": DrawsGrey,
    "draws-fractions": DrawsFractions,
}


@dataclass(frozen=True)
class LedgerFamily:
    """Makes the environments above, by name."""

    metric_names: tuple[str, ...] = ("second_action", "serial", "never_reported")

    def make(self, name: str) -> gymnasium.Env:
        return CLASSES[name]()

    def assign(self, env: gymnasium.Env, task: WorldTask) -> None:
        env.assign(task)
