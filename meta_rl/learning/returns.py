"""Returns and advantages, from rewards and values along time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
