"""Episodes within experience: their steps, their sums, their scores."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meta_rl.core.types import Examples, Experience, Rollout, Score


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
    return sums.scatter_add(0, which, torch.where(rollout.valid, quantity.float(), 0.0))


def episode_scores(
    experience: Experience, scores: Sequence[Score], episodes: int
) -> dict[str, Float[Tensor, "E M N"]]:
    """Return each score of each episode of every copy.

    Args:
        episodes: Whole episodes that every copy has played; of examples, equal parts of them.
    """
    return {score.name: _episode_score(experience, score, episodes) for score in scores}


def _episode_score(experience: Experience, score: Score, episodes: int) -> Float[Tensor, "E M N"]:
    if isinstance(experience, Examples):
        judged = experience.metrics[score.quantity]
        return judged.reshape(episodes, -1, *judged.shape[1:]).mean(1)
    if score.quantity == "reward":
        quantity = experience.reward
    else:
        quantity = experience.metrics[score.quantity]
    sums = episode_sums(experience, quantity, episodes)
    if score.over_episode == "any":
        return (sums > 0).float()
    if score.over_episode == "mean":
        return sums / episode_sums(experience, torch.ones_like(experience.reward), episodes)
    return sums
