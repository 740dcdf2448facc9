"""Episodes within a rollout: their steps, their sums, their success."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meta_rl.core.types import Rollout


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


def episode_success(rollout: Rollout, episodes: int) -> Float[torch.Tensor, "E M N"]:
    """Return 1 for each episode with a successful step, NaN where success is not defined."""
    if "success" not in rollout.metrics:
        return torch.full((episodes, *rollout.reward.shape[1:]), torch.nan)
    return (episode_sums(rollout, rollout.metrics["success"], episodes) > 0).float()
