"""Classical players of random tabular MDPs, B worlds at once.

All believe in the family's prior: flat Dirichlet transitions, mean rewards from N(1, 1), noise of
variance 1. They plan once an episode, by value iteration over its steps, and act greedily.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

MEAN_REWARD = 1.0


class Belief:
    """What B worlds have shown, and the posterior that follows."""

    def __init__(self, worlds: int, states: int, actions: int) -> None:
        self.seen = np.zeros((worlds, states, actions, states))
        """How often each state and action led to each next state."""
        self.paid = np.zeros((worlds, states, actions))
        """Sum of the rewards of each state and action."""

    def learn(
        self,
        state: NDArray[np.int64],
        action: NDArray[np.int64],
        reward: Numbers,
        after: NDArray[np.int64],
    ) -> None:
        """Take in one step of every world."""
        world = np.arange(len(state))
        self.seen[world, state, action, after] += 1
        self.paid[world, state, action] += reward

    @property
    def tries(self) -> Numbers:
        """How often each action was taken in each state, (B, S, A)."""
        return self.seen.sum(-1)

    def mean(self) -> tuple[Numbers, Numbers]:
        """Return the posterior means of rewards (B, S, A) and transitions (B, S, A, S)."""
        weight = 1 + self.seen
        reward = (MEAN_REWARD + self.paid) / (1 + self.tries)
        return reward, weight / weight.sum(-1, keepdims=True)

    def draw(self, chance: np.random.Generator) -> tuple[Numbers, Numbers]:
        """Draw an MDP for every world from the posterior."""
        weight = chance.standard_gamma(1 + self.seen)
        reward = self.mean()[0]
        reward = reward + chance.standard_normal(reward.shape) / np.sqrt(1 + self.tries)
        return reward, weight / weight.sum(-1, keepdims=True)


def action_values(reward: Numbers, transition: Numbers, steps: int) -> Numbers:
    """Return what each action earns until the end of an episode, (T, B, S, A), if all is known."""
    values = [reward]
    for _ in range(steps - 1):
        best = values[-1].max(-1)
        future = (transition.reshape(len(best), -1, best.shape[1]) @ best[..., None])[..., 0]
        values.append(reward + future.reshape(reward.shape))
    return np.stack(values[::-1])


class Player(Protocol):
    """Plans the next episode."""

    def plan(self, belief: Belief, steps: int, chance: np.random.Generator) -> Numbers:
        """Return a score of each action at each step of the episode, (T, B, S, A)."""
        ...

    @property
    def epsilon(self) -> float:
        """How often any action is taken instead of the best."""
        ...


@dataclass(frozen=True)
class Random:
    """Takes any action."""

    epsilon: float = 1.0

    def plan(self, belief: Belief, steps: int, chance: np.random.Generator) -> Numbers:
        """Score all alike."""
        return np.zeros((steps, *belief.paid.shape))


@dataclass(frozen=True)
class Oracle:
    """Knows the MDPs: the optimum."""

    reward: Numbers
    transition: Numbers
    epsilon: float = 0.0

    def plan(self, belief: Belief, steps: int, chance: np.random.Generator) -> Numbers:
        """Solve the MDPs."""
        return action_values(self.reward, self.transition, steps)


@dataclass(frozen=True)
class PosteriorSampling:
    """PSRL (Osband et al. 2013), and with several samples OPSRL, its optimistic kin.

    OPSRL takes each action's best value among the samples (Osband and Van Roy 2017), as their
    code does (iosband/TabulaRL, OptimisticPSRL).
    """

    samples: int = 1
    epsilon: float = 0.0

    def plan(self, belief: Belief, steps: int, chance: np.random.Generator) -> Numbers:
        """Solve MDPs drawn from the posterior."""
        values = action_values(*belief.draw(chance), steps)
        for _ in range(self.samples - 1):
            np.maximum(values, action_values(*belief.draw(chance), steps), out=values)
        return values


@dataclass(frozen=True)
class Greedy:
    """Solves the expected MDP: ε-greedy, and with a bonus BEB (Kolter and Ng 2009)."""

    epsilon: float = 0.0
    bonus: float = 0.0
    """Added to the reward of an action that was never tried; it falls as 1 / (1 + tries)."""

    def plan(self, belief: Belief, steps: int, chance: np.random.Generator) -> Numbers:
        """Solve the MDP of the posterior means."""
        reward, transition = belief.mean()
        return action_values(reward + self.bonus / (1 + belief.tries), transition, steps)


@dataclass(frozen=True)
class UCRL2:
    """The best MDP within confidence bounds (Jaksch et al. 2010), planned by episode.

    The radii are the paper's shapes times a factor: the paper's own are far too wide for 100
    steps.
    """

    width: float = 1.0
    epsilon: float = 0.0

    def plan(self, belief: Belief, steps: int, chance: np.random.Generator) -> Numbers:
        """Solve the most favourable MDP by extended value iteration."""
        reward, transition = belief.mean()
        tries = np.maximum(belief.tries, 1)
        log = np.log(1 + belief.tries.sum((1, 2), keepdims=True))
        reward = reward + self.width * np.sqrt(log / tries)
        radius = self.width * np.sqrt(reward.shape[1] * log / tries)
        values = [reward]
        for _ in range(steps - 1):
            best = values[-1].max(-1)
            values.append(reward + optimistic(transition, radius, best))
        return np.stack(values[::-1])


def optimistic(transition: Numbers, radius: Numbers, value: Numbers) -> Numbers:
    """Return the largest mean of a value (B, S) under transitions within an L1 radius.

    Half of the radius is moved to the best state, and taken from the worst (Jaksch et al. 2010,
    fig. 2).
    """
    order = value.argsort(1)  # the worst first
    ranked = np.take_along_axis(value, order, 1)
    share = np.take_along_axis(transition, order[:, None, None, :], 3)
    gained = np.minimum(radius / 2, 1 - share[..., -1])
    left = np.maximum(share[..., :-1].cumsum(-1) - gained[..., None], 0)
    kept = np.diff(left, axis=-1, prepend=0)
    top = (share[..., -1] + gained) * ranked[:, None, None, -1]
    mean: Numbers = (kept * ranked[:, None, None, :-1]).sum(-1) + top
    return mean
