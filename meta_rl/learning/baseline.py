"""The linear feature baseline, fitted to each task's own returns in closed form."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meta_rl.learning.policy import by_task, from_by_task
from meta_rl.learning.returns import discounted_return, gae


def features(obs: Float[Tensor, "M B O"], step: Int[Tensor, "M B"]) -> Float[Tensor, "M B F"]:
    """Observation, its square, and a cubic in time (Duan et al. 2016, Benchmarking, §5)."""
    obs = obs.double().clamp(-10, 10)
    time = step.double().unsqueeze(-1) / 100
    return torch.cat([obs, obs**2, time, time**2, time**3, torch.ones_like(time)], dim=-1)


def fit(
    phi: Float[Tensor, "M B F"],
    target: Float[Tensor, "M B"],
    valid: Bool[Tensor, "M B"],
    ridge: float = 1e-5,
) -> Float[Tensor, "M F"]:
    """Ridge regression of the returns on the features, one solve for all tasks.

    With no more valid steps than features, as for a bandit, the fit would interpolate and leave no
    advantage. Then the baseline is the task's mean return.
    """
    phi = torch.where(valid.unsqueeze(-1), phi, 0.0)  # padding may hold anything
    target = torch.where(valid, target.to(phi.dtype), 0.0)
    gram, moment = phi.mT @ phi, phi.mT @ target.unsqueeze(-1)
    few = valid.sum(1) <= phi.shape[-1]
    is_constant = torch.arange(phi.shape[-1], device=phi.device) == phi.shape[-1] - 1
    used = ~few.unsqueeze(1) | is_constant  # (M, F)
    gram = torch.where(used.unsqueeze(1) & used.unsqueeze(2), gram, 0.0)
    gram = gram + ridge * torch.eye(phi.shape[-1], dtype=phi.dtype, device=phi.device)
    moment = torch.where(used.unsqueeze(2), moment, 0.0)
    weights, failed = torch.linalg.solve_ex(gram, moment)
    # Rewards that are not finite are the trainer's to report: here they must not raise.
    return torch.where(failed.view(-1, 1) > 0, torch.nan, weights.squeeze(-1))


def predict(phi: Float[Tensor, "M B F"], weights: Float[Tensor, "M F"]) -> Float[Tensor, "M B"]:
    """Return the fitted values, in single precision."""
    return (phi @ weights.unsqueeze(-1)).squeeze(-1).float()


AT_ONCE = 2**14
"""Steps whose features are in memory at a time, at least those of one task."""


def baseline_advantage(
    obs: Float[Tensor, "T M N O"],
    next_obs: Float[Tensor, "T M N O"],
    step: Int[Tensor, "T M N"],
    reward: Float[Tensor, "T M N"],
    terminated: Bool[Tensor, "T M N"],
    truncated: Bool[Tensor, "T M N"],
    valid: Bool[Tensor, "T M N"],
    gamma: float | Float[Tensor, ""],
    lambda_: float | Float[Tensor, ""],
    bootstrap_at_horizon: bool,
) -> Float[Tensor, "T M N"]:
    """Return advantages over a baseline that is fitted to these same steps, task by task.

    Args:
        step: Steps since the episode (or trial) began: the baseline's clock.
        bootstrap_at_horizon: Count a truncated episode's future by the baseline's value of its
            last successor; otherwise the horizon ends the return as a failure would.
    """
    obs, reward = torch.where(valid.unsqueeze(-1), obs, 0.0), torch.where(valid, reward, 0.0)
    last = terminated | truncated
    to_go = discounted_return(reward, last, gamma)
    columns = [by_task(each) for each in (obs, next_obs, step, to_go, valid)]
    at_once = max(1, AT_ONCE // columns[0].shape[1])
    parts = zip(*(torch.split(each, at_once) for each in columns), strict=True)
    values, futures = [], []
    # A few tasks at a time: the features of all take twice the memory of the rollout.
    for seen, after, clock, target, kept in parts:
        phi = features(seen, clock)
        weights = fit(phi, target, kept)
        values.append(predict(phi, weights))
        if bootstrap_at_horizon:
            after = torch.where(kept.unsqueeze(-1), after, 0.0)
            futures.append(predict(features(after, clock + 1), weights))
    copies = reward.shape[2]
    value = from_by_task(torch.cat(values), copies)
    next_value = torch.cat([value[1:], value[-1:]])
    if bootstrap_at_horizon:
        next_value = torch.where(last, from_by_task(torch.cat(futures), copies), next_value)
    else:  # then no value beyond an episode's end is ever used
        terminated = last
    advantage = gae(reward, value, next_value, terminated, truncated, gamma, lambda_)
    return torch.where(returns_vary(to_go.detach(), reward, step, valid), advantage, 0.0)


ROUNDING = 1e-6
"""Relative spread below which float32 numbers count as equal."""


def returns_vary(
    to_go: Float[Tensor, "T M N"],
    reward: Float[Tensor, "T M N"],
    step: Int[Tensor, "T M N"],
    valid: Bool[Tensor, "T M N"],
) -> Bool[Tensor, "1 M 1"]:
    """Return for which tasks the returns vary.

    They do not if, from each step of the clock on, all episodes have the same return, up to
    rounding. A baseline then leaves only noise, which must not be scaled up to a signal. With a
    single episode, its rewards decide. Returns that are not finite count as varying, so that they
    are noticed.
    """
    tasks, clock = valid.shape[1], by_task(step).clamp(max=len(step) - 1)
    kept, values = by_task(valid), by_task(to_go)

    def by_clock(fill: float, reduce: str) -> Tensor:
        start = torch.full((tasks, len(step)), fill, device=values.device, dtype=values.dtype)
        masked = torch.where(kept, values, fill)
        return start.scatter_reduce(1, clock, masked, reduce)

    high, low = by_clock(-torch.inf, "amax"), by_clock(torch.inf, "amin")
    seen = high >= low
    spread = torch.where(seen, high - low, 0.0).amax(1)
    largest = torch.where(kept, values.abs(), 0.0).amax(1)
    single = kept.sum(1) == seen.sum(1)
    rewards = by_task(reward)
    reward_high = torch.where(kept, rewards, -torch.inf).amax(1)
    reward_low = torch.where(kept, rewards, torch.inf).amin(1)
    reward_spread = reward_high - reward_low
    reward_size = torch.where(kept, rewards.abs(), 0.0).amax(1)
    varies = torch.where(
        single, reward_spread > ROUNDING * reward_size, spread > ROUNDING * largest
    )
    broken = (kept & ~torch.isfinite(values)).any(1)
    varies = varies | broken
    return varies.view(1, -1, 1)


def normalize_by_task(
    advantage: Float[Tensor, "T M N"], valid: Bool[Tensor, "T M N"]
) -> Float[Tensor, "T M N"]:
    """Shift and scale each task's advantages to mean 0 and standard deviation 1."""
    count = valid.sum((0, 2), keepdim=True)
    mean = torch.where(valid, advantage, 0.0).sum((0, 2), keepdim=True) / count
    centred = torch.where(valid, advantage - mean, 0.0)
    variance = (centred**2).sum((0, 2), keepdim=True) / count
    # Where all are equal they become 0, and the square root must not have an infinite slope.
    std = torch.where(variance > 0, variance, 1.0).sqrt()
    return centred / (std + 1e-8)
