"""Classical players of Bernoulli bandits, many bandits at once.

A player scores each arm by what the arm has paid so far; the highest score is pulled, ties by lot.
The prior is Beta(1, 1), as in the family.
"""

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]

Player: TypeAlias = Callable[[Numbers, Numbers, int, np.random.Generator], Numbers]
"""(wins (B, k), losses (B, k), pulls so far, chance) ↦ score of each arm (B, k)."""

GRID = np.linspace(0.0, 1.0, 401)
"""Payments for retirement (λ) between which an index is interpolated."""


def pick(score: Numbers, chance: np.random.Generator) -> NDArray[np.int64]:
    """Return the best column of each row, one of the best by lot."""
    lot = chance.random(score.shape)
    return np.where(score == score.max(1, keepdims=True), lot, -1.0).argmax(1)


def random(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
    """Pull any arm."""
    return np.zeros_like(wins)


def thompson(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
    """Score by a draw from the posterior (Thompson 1933)."""
    return chance.beta(1 + wins, 1 + losses)


def posterior_mean(wins: Numbers, losses: Numbers) -> Numbers:
    """Return how often each arm is expected to pay."""
    mean: Numbers = (1 + wins) / (2 + wins + losses)
    return mean


def epsilon_greedy(epsilon: float) -> Player:
    """Pull the arm with the best posterior mean, any arm with probability ε."""

    def play(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
        explores = chance.random((len(wins), 1)) < epsilon
        return np.where(explores, 0.0, posterior_mean(wins, losses))

    return play


def ucb1(width: float) -> Player:
    """Score by an upper confidence bound; every arm is pulled once first (Auer et al. 2002).

    Args:
        width: Factor of the confidence radius; √2 in the paper.
    """

    def play(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
        count = wins + losses
        tried = np.maximum(count, 1)
        radius = width * np.sqrt(np.log(max(pulls, 1)) / tried)
        return np.where(count == 0, np.inf, wins / tried + radius)

    return play


def best_arm(probability: Numbers) -> Player:
    """Pull the arm that pays most often, which only an oracle knows."""

    def play(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
        return probability

    return play


def gittins(discount: float, horizon: int) -> Player:
    """Score by the Gittins index of an endless discounted bandit."""
    levels = discounted_index(discount, horizon)
    table = np.zeros((horizon, horizon))
    for count, index in enumerate(levels):
        wins = np.arange(count + 1)
        table[wins, count - wins] = index

    def play(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
        return table[wins.astype(int), losses.astype(int)]

    return play


def finite_gittins(horizon: int) -> Player:
    """Score by the Gittins index of the pulls that remain (Kaufmann 2018; Lattimore 2016)."""
    tables = finite_index(horizon)

    def play(wins: Numbers, losses: Numbers, pulls: int, chance: np.random.Generator) -> Numbers:
        return tables[horizon - pulls][wins.astype(int), losses.astype(int)]

    return play


def discounted_index(discount: float, levels: int, depth: int | None = None) -> list[Numbers]:
    """Return the Gittins index of an arm after each number of pulls, by how many paid.

    By calibration (Gittins et al. 2011, §8.4): the index is the payment λ a pull for which going
    on and retiring are worth the same. Beyond `depth` pulls the arm is taken for known.

    Args:
        levels: Numbers of pulls to return, from 0 on.
        depth: Pulls to look ahead to. Without it, so many that the rest weighs under 1e-6.
    """
    depth = depth or levels + int(np.log(1e-6) / np.log(discount))
    mean = (1 + np.arange(depth + 1)) / (2 + depth)
    # (pulls that paid, λ): what going on is worth beyond retirement at once, if anything
    value = np.maximum(mean[:, None] - GRID, 0) / (1 - discount)
    found: list[Numbers] = []
    for count in range(depth - 1, -1, -1):
        mean = (1 + np.arange(count + 1))[:, None] / (2 + count)
        future = mean * value[1:] + (1 - mean) * value[:-1]
        gain = mean - GRID + discount * future
        if count < levels:
            found.append(_root(gain))
        value = np.maximum(gain, 0)
    return found[::-1]


def finite_index(horizon: int) -> list[Numbers]:
    """Return for each number of pulls that remain the index by (wins, losses); row 0 is empty."""
    tables: list[Numbers] = [np.zeros((0, 0))]
    value = np.zeros((horizon + 1, horizon + 1, len(GRID)))
    for remaining in range(1, horizon + 1):
        size = horizon - remaining + 1  # an arm was pulled at most horizon - remaining times
        wins, losses = np.arange(size)[:, None, None], np.arange(size)[None, :, None]
        mean = (1 + wins) / (2 + wins + losses)
        future = mean * value[1 : size + 1, :size] + (1 - mean) * value[:size, 1 : size + 1]
        gain = mean - GRID + future
        tables.append(_root(gain))
        value = np.maximum(gain, 0)
    return tables


def _root(gain: Numbers) -> Numbers:
    """Return where along its last axis, which is `GRID`, a falling function crosses 0."""
    last = np.clip((gain >= 0).sum(-1, keepdims=True) - 1, 0, len(GRID) - 2)
    above = np.take_along_axis(gain, last, -1)[..., 0]
    below = np.take_along_axis(gain, last + 1, -1)[..., 0]
    share: Numbers = above / (above - below)
    return GRID[last[..., 0]] + share * (GRID[1] - GRID[0])


def bayes_optimum(arms: int, horizon: int) -> float:
    """Return the most that any player can earn on average over the prior, by dynamic programming.

    Arms are interchangeable, so a state is how often each has paid and not paid, sorted. Feasible
    for few arms and pulls only.
    """

    @cache
    def value(state: tuple[tuple[int, int], ...], remaining: int) -> float:
        if remaining == 0:
            return 0.0
        best = 0.0
        for arm in set(state):
            others = list(state)
            others.remove(arm)
            wins, losses = arm
            mean = (1 + wins) / (2 + wins + losses)
            paid = value(tuple(sorted([*others, (wins + 1, losses)])), remaining - 1)
            not_paid = value(tuple(sorted([*others, (wins, losses + 1)])), remaining - 1)
            best = max(best, mean * (1 + paid) + (1 - mean) * not_paid)
        return best

    return value(((0, 0),) * arms, horizon)
