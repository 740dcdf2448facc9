"""What is done before adaptation, credited with what comes of it after adaptation."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meta_rl.core.episodes import episode_step
from meta_rl.core.ranks import gathered
from meta_rl.core.types import Rollout
from meta_rl.learning.baseline import ROUNDING


def credit_before_adaptation(
    rollouts: Sequence[Rollout], weights: Mapping[int, float], gamma: float, normalized: bool
) -> dict[int, Float[Tensor, "M"]]:
    """Return what each step of a stage's episodes is credited with for the stages after it.

    The episodes of stage j decide the policies of all later stages k. So the gradient of the
    return J_k also holds E[∇ log p(τ_j) (G_k - b)], with log p the sum over all steps of all of a
    task's episodes, G_k what it earned, and b a baseline (E-MAML, Stadie et al. 2018).

    Objectives are means over steps, so the gradient of J_k stands in them divided by the mean
    length of an episode. The credit is scaled such that its mean over the steps of stage j is the
    same part of that term: it is exact. Normalized credits, as the advantages beside them, have a
    deviation of 1 over all tasks instead; so has the term in the released code of ProMP (Rothfuss
    et al. 2019), which compares with E-MAML.

    Args:
        rollouts: Of stage 0 ... K.
        weights: Which stages the objective counts, and how much.
        gamma: Discount per environment step (γ).
    """
    steps = [rollout.valid.sum((0, 2)) for rollout in rollouts]
    credit: dict[int, Tensor] = {}
    for k, weight in weights.items():
        gain = beyond_other_tasks(mean_return(rollouts[k], gamma), normalized)
        for j in range(k):
            scale = 1.0 if normalized else steps[j] * episodes(rollouts[k]) / steps[k]
            credit[j] = credit.get(j, 0.0) + weight * scale * gain
    return credit


def episodes(rollout: Rollout) -> Int[Tensor, "M"]:
    """Return how many episodes each task's copies have begun."""
    return (rollout.first & rollout.valid).sum((0, 2))


def mean_return(rollout: Rollout, gamma: float) -> Float[Tensor, "M"]:
    """Return the mean over each task's episodes of their discounted return."""
    discounted = gamma ** episode_step(rollout.first) * rollout.reward
    return torch.where(rollout.valid, discounted, 0.0).sum((0, 2)) / episodes(rollout)


def beyond_other_tasks(gain: Float[Tensor, "M"], normalized: bool) -> Float[Tensor, "M"]:
    """Return how much each task earned beyond the mean of all others, those of all ranks.

    What others earned has nothing to do with what was drawn for this task, so as a baseline it
    leaves the gradient's expectation as it is. A single task has none, and no deviation either.
    Where all have earned the same, it is 0: rounding must not be scaled up to a signal.
    """
    every = torch.cat(gathered(gain)).to(gain)
    count = len(every)
    alike = every.max() - every.min() <= ROUNDING * every.abs().max()
    beyond = torch.where(alike, 0.0, gain - every.mean())
    if normalized:
        return beyond / (every.std(correction=0) + 1e-8)
    return gain if count == 1 else beyond * count / (count - 1)
