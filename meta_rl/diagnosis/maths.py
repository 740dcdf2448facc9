"""An agent's objective beside what is computed without its help."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt
from statistics import mean

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_rl.core.episodes import episode_step
from meta_rl.core.protocols import Surrogate
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import MetaBatch, Params, Rollout, map_tensors
from meta_rl.learning.baseline import features, fit, predict
from meta_rl.learning.differentiation import grad_and_value
from meta_rl.learning.policy import by_task
from meta_rl.learning.returns import discounted_return
from meta_rl.learning.trials import clock
from meta_rl.learning.trust_region import ravel, unravel


@dataclass(frozen=True)
class Maths:
    """An agent's objective on one meta-batch beside what is computed without its help."""

    log_ratio: float
    """Largest |log ratio| of the recorded actions at the very parameters that drew them."""
    advantage_correlation: float
    """Of its advantages with the returns less a baseline, within each task; mean over tasks."""
    direction_cosine: float
    """Of the direction it moves in with the policy gradient of its advantages."""
    explained_variance: float
    """Share of the returns' variance within a task that the linear feature baseline explains."""
    fewest_steps: int
    """Of any task: what its baseline is fitted to."""
    baseline_features: int
    """Of that fit: with no more steps than these, the mean return takes its place."""
    gradient_error: float
    """Of its gradient, relative, by central differences of its loss."""
    approximation: str | None
    """What the gradient leaves out on purpose."""


def probe(batch: MetaBatch, tasks: int = 4) -> MetaBatch:
    """Return a few tasks of a meta-batch in double precision; first those whose rewards vary.

    Objectives are means over tasks that share nothing but θ: a few show the same faults, cheaply.
    """
    rewards = [by_task(rollout.masked().reward) for rollout in batch.rollouts]
    alike = torch.stack([(each == each[:, :1]).all(1) for each in rewards]).all(0)
    chosen = alike.int().argsort(stable=True)[:tasks].sort().values

    def some(column: Tensor) -> Tensor:
        kept = column[:, chosen]
        return kept.double() if kept.is_floating_point() else kept

    rollouts = tuple(map_tensors(some, rollout) for rollout in batch.rollouts)
    return MetaBatch(batch.tasks[chosen.tolist()], rollouts)


def compare(surrogate: Surrogate) -> Maths:
    """Hold an agent's objective against finite differences and returns computed here."""
    rollout, valid = surrogate.rollout, surrogate.rollout.valid
    theta = {name: value.detach().double() for name, value in surrogate.theta.items()}
    ends = rollout.last
    if surrogate.across_episodes:  # then only a trial's last step ends the return
        ends = ends & (valid.sum(0) == valid.cumsum(0))
    surplus = returns_less_baseline(rollout, ends, surrogate.gamma, surrogate.across_episodes)
    weight = surrogate.advantage * valid / valid.sum((0, 2), keepdim=True)

    def likelihood(theta: Params) -> Tensor:
        return (weight * surrogate.log_ratio(theta)).sum()

    downhill, uphill = -_gradient(surrogate.loss, theta), _gradient(likelihood, theta)
    # Observations and biases of zero put ReLU units on their very kink, where no derivative is.
    near = unravel(ravel(theta) + 1e-3 * _directions(theta, 1)[0], theta)
    with torch.no_grad():
        return Maths(
            log_ratio=float((surrogate.log_ratio(theta) * valid).abs().max()),
            advantage_correlation=_correlation_by_task(surrogate.advantage, surplus, valid),
            direction_cosine=float(downhill @ uphill / downhill.norm() / uphill.norm()),
            explained_variance=_explained_variance(
                rollout, ends, surrogate.gamma, surrogate.across_episodes
            ),
            fewest_steps=int(rollout.valid.sum((0, 2)).min()),
            # RL²'s baseline sees the time in the episode, too.
            baseline_features=2 * (rollout.obs.shape[-1] + surrogate.across_episodes) + 4,
            gradient_error=gradient_error(surrogate.loss, near),
            approximation=surrogate.approximation,
        )


def gradient_error(loss: Callable[[Params], Tensor], theta: Params) -> float:
    """Return how far the gradient g is from the slopes of the loss, relative to |g|.

    Slopes s are taken along g, and along random unit vectors u, which see what g may lack: the mean
    of (s - g·u)² over them is |∇ - g|² / D. NaN if g is zero.
    """
    gradient = _gradient(loss, theta)
    # A short step, for the inner gradient jumps where a ReLU unit of any sample passes its kink.
    vector, step = ravel(theta), 1e-8

    def slope(direction: Tensor) -> float:
        up, down = (loss(unravel(vector + h * direction, theta)) for h in (step, -step))
        return float(up - down) / (2 * step)

    norm = float(gradient.norm())
    if norm == 0:
        return math.nan
    along = abs(slope(gradient / norm) - norm)
    squared = [(slope(u) - float(gradient @ u)) ** 2 for u in _directions(theta, 4)]
    return max(along, sqrt(len(vector) * sum(squared) / len(squared))) / norm


def _gradient(loss: Callable[[Params], Tensor], theta: Params) -> Float[Tensor, "D"]:
    """Return the gradient as one vector."""
    return ravel(grad_and_value(lambda theta: (loss(theta), None), theta)[0])


def _directions(theta: Params, count: int) -> Float[Tensor, "count D"]:
    """Draw random unit vectors."""
    vector = ravel(theta)
    drawn = torch.randn(count, len(vector), generator=make_generator(0, "doctor")).to(vector)
    units: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return units


def returns_less_baseline(
    rollout: Rollout, ends: Bool[Tensor, "T M N"], gamma: float, across_episodes: bool
) -> Float[Tensor, "T M N"]:
    """Returns to go less a least-squares baseline in time and state, each task on its own.

    Independent of `learning.returns` and `learning.baseline` on purpose: it checks what agents make
    of them.

    Args:
        across_episodes: Whether returns run on over the episodes of packed trials. What is left of
            them depends on the time in the trial, then, as well as on that in the episode.
    """
    reward = (rollout.reward * rollout.valid).double().cpu().numpy()
    keep, last = rollout.valid.cpu().numpy(), ends.cpu().numpy()
    surplus, to_go = np.zeros_like(reward), np.zeros(reward.shape[1:])
    returns = np.zeros_like(reward)
    for t in reversed(range(len(reward))):
        to_go = reward[t] + gamma * np.where(last[t], 0.0, to_go)
        returns[t] = to_go
    obs = rollout.obs.double().cpu().numpy()
    time = episode_step(rollout.first).cpu().numpy()[..., None] / 100
    times = [time]
    if across_episodes:
        trial = np.arange(len(time)).reshape(-1, 1, 1, 1) / 100
        times.append(np.broadcast_to(trial, time.shape))
    powers = [each**power for each in times for power in (1, 2, 3)]
    inputs = np.concatenate([obs, obs**2, *powers, np.ones_like(time)], axis=-1)
    for m in range(reward.shape[1]):
        played = keep[:, m]
        x, y = inputs[:, m][played], returns[:, m][played]
        weights, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
        # A fit that goes through all of a few steps would leave rounding alone.
        value = y.mean() if rank == len(y) else x @ weights
        surplus[:, m][played] = y - value
    return torch.from_numpy(surplus).to(rollout.reward.device)


def _correlation_by_task(
    ours: Float[Tensor, "T M N"], theirs: Float[Tensor, "T M N"], valid: Bool[Tensor, "T M N"]
) -> float:
    """Return the mean over tasks of the correlation over a task's steps.

    Tasks where one of both is constant have none; NaN if that is all.
    """
    pairs = [
        torch.corrcoef(torch.stack([ours[:, m][valid[:, m]], theirs[:, m][valid[:, m]]]))[0, 1]
        for m in range(valid.shape[1])
    ]
    return float(torch.stack(pairs).nanmean())


def _explained_variance(
    rollout: Rollout, ends: Bool[Tensor, "T M N"], gamma: float, across_episodes: bool
) -> float:
    """Return 1 - Var(G - V) / Var(G) within a task, mean over tasks, for the linear baseline V.

    Tasks of equal returns have none; NaN if all are such.
    """
    valid = by_task(rollout.valid)
    target = by_task(discounted_return(rollout.reward, ends, gamma))
    obs, step = rollout.obs, episode_step(rollout.first)
    if across_episodes:  # as that of trials sees it
        obs, step = torch.cat([obs, (step / 100).unsqueeze(-1)], dim=-1), clock(rollout.valid)
    phi = features(by_task(obs), by_task(step))
    value = predict(phi, fit(phi, target, valid))
    explained = [
        float(1 - (g - v)[played].var() / g[played].var())
        for g, v, played in zip(target, value, valid, strict=True)
        if g[played].var() > 0
    ]
    return mean(explained) if explained else nan
