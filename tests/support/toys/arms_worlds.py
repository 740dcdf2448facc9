"""The environments of `toys.arms`, for processes without torch."""

from dataclasses import dataclass

import gymnasium
from gymnasium.spaces import Discrete

LAMPS, ARMS = 2, 3


class Arms(gymnasium.Env):
    observation_space = Discrete(LAMPS)
    action_space = Discrete(ARMS, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lamp = int(self.np_random.integers(LAMPS))
        return self.lamp, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        right = action - 5 == self.right[self.lamp]
        self.lamp = int(self.np_random.integers(LAMPS))
        return self.lamp, float(right), False, False, {"success": float(right)}


@dataclass(frozen=True)
class ArmsFamily:
    metric_names: tuple[str, ...] = ("success",)

    def make(self, name):
        return Arms()

    def assign(self, env, task):
        env.right = tuple(int(arm) for arm in task.params)
