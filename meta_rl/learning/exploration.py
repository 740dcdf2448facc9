"""E-MAML's credit: steps before adaptation get credit for the return after it."""

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
    """Return the credit of each stage's steps for the returns of the stages after it.

    The episodes of stage j decide the policies of all later stages k. So the gradient of the
    return J_k also holds E[∇ log p(τ_j) (G_k - b)] (E-MAML, Stadie et al. 2018). Here log p is the
    sum over all steps of all of a task's episodes, G_k its return, and b a baseline.

    Objectives are means over steps, so they hold the gradient of J_k divided by the mean length of
    an episode. The credit is scaled so that its mean over the steps of stage j is divided by the
    same: it is exact. Normalized credits have a deviation of 1 over all tasks instead, like the
    advantages. So has the term in the released code of ProMP (Rothfuss et al. 2019), which compares
    with E-MAML.

    Args:
        rollouts: Rollouts of stage 0 ... K.
        weights: Weight of each stage that the objective counts.
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
    """Return each task's gain beyond the mean of all other tasks, of all ranks.

    The gains of other tasks do not depend on this task's actions. So as a baseline they leave the
    gradient's expectation as it is. A single task has no baseline and no deviation. If all gains
    are equal, the result is 0: rounding must not be scaled up to a signal.
    """
    every = torch.cat(gathered(gain)).to(gain)
    count = len(every)
    alike = every.max() - every.min() <= ROUNDING * every.abs().max()
    beyond = torch.where(alike, 0.0, gain - every.mean())
    if normalized:
        return beyond / (every.std(correction=0) + 1e-8)
    return gain if count == 1 else beyond * count / (count - 1)
