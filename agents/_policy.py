"""What agents with one policy share: its parameters as data, and a rollout as an update sees it."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.checks import check_above_zero, check_at_least, check_within_unit
from meta_rl.core.distributions import Distribution
from meta_rl.core.episodes import episode_step
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Noise, make_generator
from meta_rl.core.spaces import choices
from meta_rl.core.types import (
    EnvSpec,
    Metrics,
    Params,
    Phase,
    Rollout,
    Tasks,
    TimeStep,
    map_tensors,
)
from meta_rl.learning.baseline import baseline_advantage, normalize_by_task
from meta_rl.learning.policy import MLPPolicy, by_task, for_each_task


@dataclass(frozen=True)
class PolicyConfig:
    """A policy, and how advantages are made of its rollouts."""

    episodes_per_phase: int = 1
    """Episodes that each copy plays in one rollout: before, and after every adaptation step."""
    gamma: float = 0.99
    """Discount per environment step, in [0, 1]."""
    gae_lambda: float = 1.0
    """Weight of longer backups in the advantages, in [0, 1]; 1 is Monte Carlo."""
    bootstrap_at_horizon: bool = False
    """Count the future beyond the horizon by the baseline instead of ending the return there."""
    normalize_advantage: bool = True
    """Shift and scale each task's advantages to mean 0 and standard deviation 1."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Units of each hidden layer of the policy."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_std: float = 1.0
    """Standard deviation of continuous actions at first; one for each dimension is learned."""
    min_std: float = 1e-6
    """Floor of the standard deviation."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "episodes_per_phase")
        if any(size < 1 for size in self.hidden_sizes):
            raise UserError(f"agent.hidden_sizes must all be at least 1, got {self.hidden_sizes}")
        check_above_zero(self, "initial_std", "min_std")
        if self.initial_std < self.min_std:
            raise UserError(
                f"agent.initial_std must be at least min_std, which is {self.min_std}, got "
                f"{self.initial_std}: below it nothing is learned of it"
            )
        check_within_unit(self, "gamma", "gae_lambda")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The rollouts that a meta-update needs."""
        return (Phase(self.episodes_per_phase),)


@dataclass(frozen=True)
class Samples:
    """A rollout as an update sees it: task by task, with advantages.

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
        """Log π(a|s) - log π_o(a|s), π_o being the policy that collected."""
        return policy.log_prob(self.action) - self.log_prob

    def mean_over_tasks(self, quantity: Float[Tensor, "M B"]) -> Float[Tensor, ""]:
        """The mean over each task's steps, and over tasks."""
        return (self.weight * quantity).sum() / len(self.weight)


def prepare(
    rollout: Rollout,
    config: PolicyConfig,
    gamma: float | Float[Tensor, ""] | None = None,
    lambda_: float | Float[Tensor, ""] | None = None,
) -> Samples:
    """Compute a rollout's advantages and lay its steps out task by task.

    Args:
        gamma: Discount instead of the config's; advantages are differentiable in it.
        lambda_: Weight of longer backups instead of the config's, likewise.
    """
    rollout = rollout.masked()
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
    weight = by_task(rollout.valid).float()
    return Samples(
        by_task(rollout.obs),
        by_task(rollout.action),
        by_task(rollout.log_prob),
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


class PolicyAgent:
    """One policy θ; the context is a set of its parameters for each task.

    The context is `{"policy": parameters with leading axis M}`.
    """

    copies_share_experience = True

    def __init__(
        self, config: PolicyConfig, spec: EnvSpec, device: torch.device, seed: int
    ) -> None:
        self.config = config
        self.device = device
        self.policy = MLPPolicy(
            spec.observation_size,
            spec.action_size,
            config.hidden_sizes,
            config.activation,
            config.initial_std,
            config.min_std,
            choices(spec.action_space),
        )
        self.theta = self.policy.initial_parameters(make_generator(seed, "init"), device)
        self.meta_updates = 0
        self.phases = config.phases

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Any]:
        """Start every task from the learned parameters θ."""
        return {"policy": for_each_task(self.theta, len(tasks))}

    def act(
        self, context: dict[str, Any], timestep: TimeStep, noise: Noise | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Draw actions from each task's own policy; the context stays as it is."""
        distribution, context = self.distribution(context, timestep)
        action = distribution.sample(noise)
        return action, distribution.log_prob(action), context

    def distribution(
        self, context: dict[str, Any], timestep: TimeStep
    ) -> tuple[Distribution, dict[str, Any]]:
        """Return each task's own policy in the given states."""
        return self.policy.batched(context["policy"], timestep.obs), context

    def spread(self) -> Metrics:
        """How widely the policy explores, for the log; nothing if its actions are choices."""
        if "log_std" not in self.theta:
            return {}
        return {"policy/std": self.theta["log_std"].exp().mean()}

    def state_dict(self) -> dict[str, Any]:
        """Return θ and how many updates made it."""
        return {"theta": self.theta, "meta_updates": self.meta_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore θ, as a copy: an optimizer may write into it."""
        self.theta = {
            name: value.to(self.device, copy=True) for name, value in state["theta"].items()
        }
        self.meta_updates = state.get("meta_updates", 0)  # the first checkpoints did not count


class OptimizerStep(PolicyAgent):
    """Moves θ by one of torch's optimizers, whose state is part of the agent's."""

    optimizer: torch.optim.Optimizer

    def descend(self, gradient: Params) -> None:
        """Take one step against a gradient."""
        for name, parameter in self.theta.items():
            parameter.grad = gradient[name]
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return θ and the optimizer's moments."""
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore θ and the optimizer's moments."""
        super().load_state_dict(state)
        self.optimizer.param_groups[0]["params"] = list(self.theta.values())
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # it would keep the tensors
