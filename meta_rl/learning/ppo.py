"""PPO (Schulman et al. 2017): the clipped objective, and epochs of minibatches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad_and_value

from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.types import Metrics, Params
from meta_rl.learning.descent import Descent


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO's epochs."""

    outer_lr: float = 1e-3
    """Step size of Adam in the outer update (β), above 0."""
    epochs: int = 10
    """Passes over each meta-batch, at least 1."""
    clip: float = 0.2
    """How far the probability ratio may gain from moving away from 1 (ε), above 0."""
    target_kl: float | None = 0.03
    """Take no further epoch once the mean divergence exceeds this, in nats a step, above 0; none
    never stops."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "epochs")
        check_above_zero(self, "outer_lr", "clip", "target_kl")


@dataclass(frozen=True)
class MinibatchConfig(PPOConfig):
    """Settings of PPO's epochs on minibatches."""

    minibatches: int = 4
    """Parts that each pass is split into, at least 1; one Adam step each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "minibatches")


def clipped_surrogate(
    ratio: Float[Tensor, "*B"], advantage: Float[Tensor, "*B"], clip: float
) -> Float[Tensor, "*B"]:
    """PPO's objective for each step, to be maximized (Schulman et al. 2017, eq. 7)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def clipped_loss(
    log_ratio: Float[Tensor, "*B"],
    advantage: Float[Tensor, "*B"],
    weight: Float[Tensor, "*B"],
    clip: float,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Minus PPO's objective, weighted, and what tells how far the policy moved.

    Args:
        log_ratio: log π(a|s) - log π_old(a|s).
        weight: Of each step; they sum to 1.
    """
    ratio = log_ratio.exp()
    loss = -(weight * clipped_surrogate(ratio, advantage, clip)).sum()
    measured = {
        "outer/kl": ratio - 1 - log_ratio,  # Schulman's low-variance estimate
        "outer/clipped_share": ((ratio - 1).abs() > clip).float(),
    }
    means = {name: (weight * value.detach()).sum() for name, value in measured.items()}
    return loss, {"outer/loss": loss.detach()} | means


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


def descend_epochs(
    loss: Callable[[Params], tuple[Tensor, Metrics]],
    theta: Params,
    descent: Descent,
    config: PPOConfig,
    at_first: Callable[[Params], Metrics],
) -> Metrics:
    """Descend a loss of the whole meta-batch for some epochs, or until the target divergence.

    Args:
        loss: θ ↦ its value, and what is measured beside it, `outer/kl` among that.
        at_first: What to measure of the first gradient, still at the θ that collected.
    """
    metrics: Metrics = {}
    measured: Metrics
    epochs = 0
    for _ in range(config.epochs):
        gradient, (value, measured) = grad_and_value(loss, has_aux=True)(theta)
        if epochs == 0:
            metrics = at_first(gradient) | {"outer/loss_before": value}
        if config.target_kl is not None and measured["outer/kl"] > config.target_kl:
            break
        descent.step(theta, gradient)
        epochs += 1
    else:  # the last step has not been measured yet
        with torch.no_grad():
            value, measured = loss(theta)
    return (
        metrics
        | measured
        | {"outer/loss_after": value, "outer/epochs": torch.tensor(float(epochs))}
    )
