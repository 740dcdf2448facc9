"""Environments with the slips that people's own environments have: each class is one."""

import gymnasium
import numpy as np


class Right(gymnasium.Env):
    """A point that moves; nothing wrong with it."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.p, self.t = np.array([0.7, -0.4], np.float32), 0
        return self.p.copy(), {}

    def step(self, action):
        self.p, self.t = self.p + 0.1 * np.asarray(action, np.float32), self.t + 1
        return self.p.copy(), -float(np.abs(self.p - 0.3).sum()), False, self.t >= 5, {}


class ResetOfOldGym(Right):
    """Before Gymnasium 0.26 reset returned the observation alone; two numbers unpack unseen."""

    def reset(self, seed=None, options=None):
        return super().reset(seed=seed)[0]


class StepOfOldGym(Right):
    """Four values instead of five."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class ResetWithoutSeed(Right):
    """No keyword `seed`: common, and harmless for what is deterministic."""

    def reset(self):
        return super().reset()


class Equal(ResetWithoutSeed):
    """Compared by what it is: all are equal, and none can be hashed."""

    def __eq__(self, other):
        return isinstance(other, Equal)


class ShorterThanItsSpace(Right):
    """The space says two numbers, the observation has one, which broadcasts."""

    def reset(self, seed=None, options=None):
        return super().reset(seed=seed)[0][:1], {}

    def step(self, action):
        obs, *rest = super().step(action)
        return obs[:1], *rest


class TerminatedNone(Right):
    """`self.contact and self.contact > 0.5` is None while there is no contact yet."""

    contact = None

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, self.contact and self.contact > 0.5, truncated, info


class RewardOfOneElement(Right):
    """An array of shape (1,), as batched code gives it."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward]), *rest


class LastObservationNan(Right):
    """The very last observation is NaN."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs * np.nan if self.t == 5 else obs, *rest


class InfoNone(Right):
    """No info dictionary."""

    def step(self, action):
        return *super().step(action)[:4], None


class SuccessNone(Right):
    """Success is None while the episode goes on."""

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"success": None}


class SuccessInWords(Right):
    """Success is neither a number nor a truth."""

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"is_success": "yes"}
