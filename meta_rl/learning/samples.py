"""The samples of a policy-gradient update: a rollout, task by task, with advantages."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.checks import check_within_unit
from meta_rl.core.distributions import Distribution
from meta_rl.core.episodes import episode_step
from meta_rl.core.types import Rollout, map_tensors
from meta_rl.learning.baseline import baseline_advantage, normalize_by_task
from meta_rl.learning.policy import by_task


@dataclass(frozen=True)
class AdvantageConfig:
    """Settings of advantages."""

    gamma: float = 0.99
    """Discount per environment step (γ), in [0, 1]."""
    gae_lambda: float = 1.0
    """Weight of longer backups in the advantages (λ), in [0, 1]; 1 is Monte Carlo."""
    bootstrap_at_horizon: bool = False
    """Add the baseline's value at the horizon; otherwise returns stop there. The effect is small,
    because the baseline knows the time and is fitted to returns that stop there."""
    normalize_advantage: bool = True
    """Shift and scale each task's advantages to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        check_within_unit(self, "gamma", "gae_lambda")


@dataclass(frozen=True)
class Samples:
    """The samples of an update: a rollout, task by task, with advantages.

    `weight` is zero on padding and sums to 1 over each task, so that a weighted sum is a mean.
    """

    obs: Float[Tensor, "M B O"]
    action: Float[Tensor, "M B A"]
    log_prob: Float[Tensor, "M B"]
    advantage: Float[Tensor, "M B"]
    weight: Float[Tensor, "M B"]
    copies: int
    """N: the steps B of a task are its T time steps, each of all N copies."""

    def log_ratio(self, policy: Distribution) -> Float[Tensor, "M B"]:
        """Return log π(a|s) - log π_o(a|s), where π_o is the policy that collected; 0 on padding.

        There, a narrow policy's ratio would be infinite, and 0 times infinity is not 0.
        """
        return torch.where(self.weight > 0, policy.log_prob(self.action) - self.log_prob, 0.0)

    def mean_over_tasks(self, quantity: Float[Tensor, "M B"]) -> Float[Tensor, ""]:
        """Return the mean over each task's steps, and over tasks."""
        return (self.weight * quantity).sum() / len(self.weight)


def prepare(
    rollout: Rollout,
    config: AdvantageConfig,
    gamma: float | Float[Tensor, ""] | None = None,
    lambda_: float | Float[Tensor, ""] | None = None,
) -> Samples:
    """Compute a rollout's advantages and lay its steps out task by task.

    Args:
        gamma: Discount in place of the config's; advantages are differentiable in it.
        lambda_: Weight of longer backups in place of the config's; likewise.
    """
    advantage = baseline_advantage(
        rollout.obs,
        rollout.next_obs,
        episode_step(rollout.first),
        rollout.reward,
        rollout.terminated,
        rollout.truncated,
        rollout.valid,
        config.gamma if gamma is None else gamma,
        config.gae_lambda if lambda_ is None else lambda_,
        config.bootstrap_at_horizon,
    )
    if config.normalize_advantage:
        advantage = normalize_by_task(advantage, rollout.valid)
    valid = by_task(rollout.valid)
    each, weight = valid.unsqueeze(-1), valid.float()
    return Samples(  # padding may hold NaN, and 0 times NaN is not 0
        torch.where(each, by_task(rollout.obs), 0.0),
        torch.where(each, by_task(rollout.action), 0.0),
        torch.where(valid, by_task(rollout.log_prob), 0.0),
        by_task(advantage),
        weight / weight.sum(1, keepdim=True),
        copies=rollout.reward.shape[2],
    )


def thin(samples: Samples, stride: int) -> Samples:
    """Keep one of every `stride` time steps of all copies."""
    if stride == 1:
        return samples

    def every(column: Tensor) -> Tensor:
        by_copy = column.reshape(len(column), -1, samples.copies, *column.shape[2:])
        return by_copy[:, ::stride].flatten(1, 2)

    thinned = map_tensors(every, samples)
    return replace(thinned, weight=thinned.weight / thinned.weight.sum(1, keepdim=True))
