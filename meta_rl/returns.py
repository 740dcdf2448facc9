"""Returns and advantages, from rewards and values along time."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meta_rl.types import Rollout


def gae(
    reward: Float[Tensor, "T *B"],
    value: Float[Tensor, "T *B"],
    next_value: Float[Tensor, "T *B"],
    terminated: Bool[Tensor, "T *B"],
    truncated: Bool[Tensor, "T *B"],
    gamma: float | Float[Tensor, ""],
    lambda_: float | Float[Tensor, ""],
) -> Float[Tensor, "T *B"]:
    """Generalized advantage estimate (Schulman et al. 2016, eq. 16).

    A terminated step has no future, so its next value counts as zero. A truncated step
    has one, so `next_value` is kept, but no advantage flows back across the reset.
    Differentiable, also in γ and λ.

    Args:
        next_value: V(s') of the true successor, never of the observation after a reset.
        gamma: Discount per environment step, in [0, 1].
        lambda_: Weight of longer backups, in [0, 1]; 0 is one-step TD, 1 is Monte Carlo.
    """
    delta = reward + gamma * next_value * ~terminated - value  # TD residual
    carry = gamma * lambda_ * ~(terminated | truncated)
    running = torch.zeros_like(reward[0])
    advantage = []
    for t in reversed(range(len(reward))):
        running = delta[t] + carry[t] * running
        advantage.append(running)
    return torch.stack(advantage[::-1])


def discounted_return(
    reward: Float[Tensor, "T *B"],
    last: Bool[Tensor, "T *B"],
    gamma: float | Float[Tensor, ""],
) -> Float[Tensor, "T *B"]:
    """Discounted sum of the rewards from each step to the end of its episode."""
    zero = torch.zeros_like(reward)
    return gae(reward, zero, zero, last, last, gamma, lambda_=1.0)


def episode_step(first: Bool[Tensor, "T *B"]) -> Int[Tensor, "T *B"]:
    """Number of steps since the episode began, 0 at its first step."""
    step = torch.arange(len(first), device=first.device).view(-1, *[1] * (first.dim() - 1))
    begun = torch.where(first, step, 0).cummax(dim=0).values
    return step - begun


def episode_sums(
    rollout: Rollout, quantity: Float[Tensor, "T M N"], episodes: int
) -> Float[Tensor, "E M N"]:
    """Sum a per-step quantity over each of a rollout's episodes.

    Every copy has played `episodes` whole episodes, so every cell is filled.
    """
    which = (rollout.first.long().cumsum(dim=0) - 1).clamp(0, episodes - 1)
    sums = torch.zeros(episodes, *quantity.shape[1:], device=quantity.device)
    return sums.scatter_add(0, which, quantity.float() * rollout.valid)
