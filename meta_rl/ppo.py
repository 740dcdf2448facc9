"""PPO (Schulman et al. 2017): the clipped objective, and epochs of minibatches."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meta_rl.types import Metrics


def clipped_surrogate(
    ratio: Float[Tensor, "*B"], advantage: Float[Tensor, "*B"], clip: float
) -> Float[Tensor, "*B"]:
    """PPO's objective for each step, to be maximized (Schulman et al. 2017, eq. 7)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def run_epochs(
    step: Callable[[Int[Tensor, "B"]], Metrics],
    count: int,
    epochs: int,
    minibatches: int,
    target_kl: float | None,
    generator: torch.Generator,
) -> Metrics:
    """Take steps on random minibatches (Schulman et al. 2017, Alg. 1); return their mean metrics.

    Args:
        step: Takes one on the samples of the given indices (on the CPU); its metrics hold
            `outer/kl`.
        count: Number of samples.
        epochs: Passes over all samples.
        minibatches: Parts of nearly one size that each pass is split into.
        target_kl: Begin no further epoch once the mean `outer/kl` of one exceeds this.
        generator: Shuffles.

    Returns:
        With them `outer/epochs`, how many there were.
    """
    history: list[Metrics] = []
    taken = 0
    while taken < epochs:
        order = torch.randperm(count, generator=generator)
        latest = [step(which) for which in order.tensor_split(min(minibatches, count))]
        history += latest
        taken += 1
        moved = torch.stack([metrics["outer/kl"] for metrics in latest]).mean()
        if target_kl is not None and moved > target_kl:
            break
    means = {name: torch.stack([each[name] for each in history]).mean() for name in history[0]}
    return means | {"outer/epochs": torch.tensor(float(taken))}
