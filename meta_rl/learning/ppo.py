"""PPO (Schulman et al. 2017): the clipped objective, and epochs of minibatches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.distributions import Distribution
from meta_rl.core.ranks import Part, part_of, sum_over_ranks, world
from meta_rl.core.types import Metrics, Params
from meta_rl.learning.descent import Descent, shortened
from meta_rl.learning.differentiation import grad_and_value
from meta_rl.learning.metrics import mean_of


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO's epochs on minibatches."""

    outer_lr: float = 1e-3
    """Step size of Adam in the outer update (β), above 0."""
    epochs: int = 10
    """Passes over each meta-batch, at least 1."""
    clip: float = 0.2
    """PPO's clip range (ε), above 0: the policy ratio is clipped to [1 - ε, 1 + ε]."""
    target_kl: float | None = 0.03
    """Start no further epoch once the mean KL divergence from the policy that collected exceeds
    this, in nats per step, above 0. `none`: never stop early."""
    minibatches: int = 4
    """Minibatches that each pass is split into, at least 1; one Adam step each."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "epochs", "minibatches")
        check_above_zero(self, "outer_lr", "clip", "target_kl")


@dataclass(frozen=True)
class EntropyPPOConfig(PPOConfig):
    """Settings of PPO with an entropy bonus and clipped gradients."""

    entropy_coefficient: float = 5e-3
    """Weight of the policy's entropy in the objective, at least 0."""
    max_gradient_norm: float = 1.0
    """Largest norm of a gradient, above 0. Longer gradients are scaled down to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "entropy_coefficient")
        check_above_zero(self, "max_gradient_norm")


@dataclass(frozen=True)
class OuterEpochsConfig(PPOConfig):
    """Settings of PPO's epochs when the samples are tasks."""

    minibatches: int = 1
    """Minibatches that the tasks of each pass are split into, at least 1; one Adam step each."""
    max_gradient_norm: float | None = None
    """Largest norm of a gradient, above 0. Longer gradients are scaled down to it. Without it, no
    limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "max_gradient_norm")


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
    """Return minus PPO's objective, weighted, and metrics of how far the policy moved.

    Args:
        log_ratio: log π(a|s) - log π_old(a|s).
        weight: Weight of each step, 0 on padding. Over all ranks they sum to 1.
    """
    log_ratio = torch.where(weight > 0, log_ratio, 0.0)  # a padded step's ratio may be infinite
    ratio = log_ratio.exp()
    loss = -(weight * clipped_surrogate(ratio, advantage, clip)).sum()
    measured = {
        "outer/kl": ratio - 1 - log_ratio,  # Schulman's low-variance estimate
        "outer/clipped_share": ((ratio - 1).abs() > clip).float(),
    }
    means = {name: (weight * value.detach()).sum() for name, value in measured.items()}
    return loss, {"outer/loss": loss.detach()} | means


def clipped_loss_with_entropy(
    policy: Distribution,
    log_ratio: Float[Tensor, "*B"],
    advantage: Float[Tensor, "*B"],
    weight: Float[Tensor, "*B"],
    config: EntropyPPOConfig,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return `clipped_loss` minus the entropy bonus, which `outer/loss` leaves out (eq. 9).

    Args:
        policy: π in the same steps.
    """
    loss, metrics = clipped_loss(log_ratio, advantage, weight, config.clip)
    entropy = (weight * policy.entropy()).sum()
    metrics["policy/entropy"] = entropy.detach()
    return loss - config.entropy_coefficient * entropy, metrics


def run_epochs(
    step: Callable[[Int[Tensor, "B"]], Metrics | None],
    count: int,
    config: PPOConfig,
    generator: torch.Generator,
    measure: Callable[[], Metrics] | None = None,
) -> Metrics:
    """Take steps on random minibatches (Schulman et al. 2017, Alg. 1); return their mean metrics.

    No further epoch starts once the divergence exceeds `config.target_kl`.

    Args:
        step: Takes a step on the samples of the given indices (on the CPU). Its metrics hold
            `outer/kl` over all ranks' samples. None means that it took no step and wants no more.
        count: Number of samples of all ranks.
        generator: Shuffles the samples.
        measure: Measures `outer/kl` after an epoch. Without it, the mean over the epoch's steps
            counts, each measured before the step was taken.

    Returns:
        The metrics, and `outer/epochs`, the number of epochs.
    """
    history: list[Metrics] = []
    taken = 0
    while taken < config.epochs:
        order = torch.randperm(count, generator=generator)
        parts = order.tensor_split(min(config.minibatches, count))
        latest = [metrics for which in parts if (metrics := step(which)) is not None]
        if len(latest) < len(parts):
            break
        history += latest
        taken += 1
        if config.target_kl is not None and (measure is None or taken < config.epochs):
            moved = mean_of([measure()] if measure else latest)["outer/kl"]
            if moved > config.target_kl:
                break
    return mean_of(history) | {"outer/epochs": torch.tensor(float(taken))}


TaskLoss: TypeAlias = Callable[[Params, Part | None], tuple[Tensor, Metrics]]
"""(θ, some of the rank's tasks, or None for all) ↦ their part of the loss and of its metrics, which
are means over the tasks of all ranks."""


def descend_epochs(
    loss: TaskLoss,
    tasks: int,
    theta: Params,
    descent: Descent,
    config: OuterEpochsConfig,
    generator: torch.Generator,
    at_first: Callable[[Params], Metrics],
) -> Metrics:
    """Move θ by epochs of gradient steps on minibatches of tasks.

    All ranks shuffle the tasks alike, so a minibatch holds the same tasks as in a single process.
    Each rank differentiates the loss of those that it has played, which may be none, as its part of
    the mean over the minibatch. The parts are added up.

    Args:
        loss: The loss, which also measures `outer/kl`.
        tasks: Number of this rank's tasks (M).
        at_first: Measures the first gradient, while θ is still the one that collected.

    Returns:
        The metrics of `at_first`, and those of the whole meta-batch at the end.
    """
    whole = config.minibatches == 1
    first: Metrics = {}

    def step(which: Int[Tensor, "B"]) -> Metrics | None:
        some = None if whole else part_of(which, tasks)
        gradient, value, measured = sum_over_ranks(
            grad_and_value(lambda theta: loss(theta, some), theta)
        )
        if not first:
            first.update(at_first(gradient) | {"outer/loss_before": value})
        # With one step per epoch, it measures the divergence itself, before the step.
        if whole and config.target_kl is not None and measured["outer/kl"] > config.target_kl:
            return None
        descent.step(theta, shortened(gradient, config.max_gradient_norm))
        return {}

    @torch.no_grad()
    def measure() -> Metrics:
        value, measured = sum_over_ranks(loss(theta, None))
        return measured | {"outer/loss_after": value}

    stops_itself = replace(config, target_kl=None) if whole else config
    counted = run_epochs(step, tasks * world().size, stops_itself, generator, measure)
    return first | counted | measure()
