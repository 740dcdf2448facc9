"""What the gradient-based agents share: a policy that adapts by policy-gradient steps (MAML)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad

from meta_rl.baseline import baseline_advantage, normalize_by_task
from meta_rl.errors import UserError
from meta_rl.policy import (
    Gaussian,
    GaussianMLP,
    Params,
    by_task,
    for_each_task,
    from_by_task,
)
from meta_rl.protocols import Surrogate
from meta_rl.returns import episode_step
from meta_rl.seeding import make_generator
from meta_rl.trust_region import ravel
from meta_rl.types import EnvSpec, MetaBatch, Phase, Rollout, Tasks, TimeStep, map_tensors


@dataclass(frozen=True)
class MAMLConfig:
    """Adaptation by policy-gradient steps from a learned initialization."""

    inner_lr: float = 0.1
    """Step size alpha of adaptation."""
    later_inner_lr: float | None = None
    """Step size of every adaptation step after the first; none means inner_lr."""
    adaptation_steps: int = 1
    """Inner gradient steps K; each needs fresh episodes."""
    first_order: bool = False
    """Drop the second derivatives from the meta-gradient (FOMAML)."""
    episodes_per_phase: int = 1
    """Episodes that each copy plays before and after every adaptation step."""
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
    """Standard deviation of the actions at first; one for each action dimension is learned."""
    min_std: float = 1e-6
    """Floor of the standard deviation."""

    def __post_init__(self) -> None:
        for name in ("adaptation_steps", "episodes_per_phase"):
            if getattr(self, name) < 1:
                raise UserError(f"agent.{name} must be at least 1, got {getattr(self, name)}")
        if any(size < 1 for size in self.hidden_sizes):
            raise UserError(f"agent.hidden_sizes must all be at least 1, got {self.hidden_sizes}")
        for name in ("inner_lr", "initial_std", "min_std"):
            if not getattr(self, name) > 0:
                raise UserError(f"agent.{name} must be above 0, got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"agent.{name} must be in [0, 1], got {getattr(self, name)}")

    def step_size(self, steps: Int[Tensor, "M"]) -> Float[Tensor, "M"]:
        """Return alpha for tasks that have adapted so many times."""
        later = self.inner_lr if self.later_inner_lr is None else self.later_inner_lr
        return torch.where(steps == 0, self.inner_lr, later)


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


def prepare(rollout: Rollout, config: MAMLConfig) -> Samples:
    """Compute a rollout's advantages and lay its steps out task by task."""
    advantage = baseline_advantage(
        rollout.obs,
        rollout.next_obs,
        episode_step(rollout.first),
        rollout.reward,
        rollout.terminated,
        rollout.truncated,
        rollout.valid,
        config.gamma,
        config.gae_lambda,
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


OuterLoss: TypeAlias = Callable[[Params, Sequence[Samples], Samples], tuple[Tensor, Any]]
"""θ, the experience of each adaptation, and that after the last ↦ loss, and what else is needed."""


class GradientAdapter:
    """A policy whose context is one set of parameters for each task.

    The context is `{"policy": parameters with leading axis M, "steps": adaptations so far (M,)}`.
    """

    copies_share_experience = True

    def __init__(self, config: MAMLConfig, spec: EnvSpec, device: torch.device, seed: int) -> None:
        self.gradient_config = config
        self.device = device
        self.policy = GaussianMLP(
            spec.observation_size,
            spec.action_size,
            config.hidden_sizes,
            config.activation,
            config.initial_std,
            config.min_std,
        )
        self.theta = self.policy.initial_parameters(make_generator(seed, "init"), device)
        self.phases = (Phase(config.episodes_per_phase),) * (config.adaptation_steps + 1)

    def begin(self, tasks: Tasks, copies: int) -> dict[str, Any]:
        """Start every task from the meta-learned parameters θ."""
        steps = torch.zeros(len(tasks), dtype=torch.long, device=self.device)
        return {"policy": for_each_task(self.theta, len(tasks)), "steps": steps}

    def act(
        self, context: dict[str, Any], timestep: TimeStep, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Draw actions from each task's own policy; the context stays as it is."""
        distribution, context = self.distribution(context, timestep)
        action = distribution.sample(generator)
        return action, distribution.log_prob(action), context

    def distribution(
        self, context: dict[str, Any], timestep: TimeStep
    ) -> tuple[Gaussian, dict[str, Any]]:
        """Return each task's own policy in the given states."""
        return self.policy.batched(context["policy"], timestep.obs), context

    def adapt(self, context: dict[str, Any], rollout: Rollout) -> dict[str, Any]:
        """Take one policy-gradient step on each task (Finn et al. 2017, Alg. 3, lines 6-7)."""
        alpha = self.gradient_config.step_size(context["steps"])
        samples = prepare(rollout, self.gradient_config)
        with torch.no_grad():  # acting needs the values alone
            phi = self.inner_step(context["policy"], samples, alpha)
        return {"policy": phi, "steps": context["steps"] + 1}

    def inner_step(self, phi: Params, samples: Samples, alpha: Float[Tensor, "M"]) -> Params:
        """One policy-gradient step on each task: φ' = φ - α ∇L(φ), differentiable in φ."""
        gradient = grad(self.policy_loss)(phi, samples)
        if self.gradient_config.first_order:
            gradient = {name: value.detach() for name, value in gradient.items()}
        return {
            name: value - alpha.view(-1, *[1] * (value.dim() - 1)) * gradient[name]
            for name, value in phi.items()
        }

    def policy_loss(self, phi: Params, samples: Samples) -> Float[Tensor, ""]:
        """L(φ) = -E[log π_φ(a|s) A], summed over tasks, which share no parameters here."""
        log_prob = self.policy.batched(phi, samples.obs).log_prob(samples.action)
        return -(samples.weight * log_prob * samples.advantage).sum()

    def adapted(self, theta: Params, supports: Sequence[Samples]) -> Params:
        """φ of each task after the inner steps on the recorded episodes, as a function of θ."""
        tasks = len(supports[0].obs)
        phi = for_each_task(theta, tasks)
        steps = torch.zeros(tasks, dtype=torch.long, device=self.device)
        for k, samples in enumerate(supports):
            phi = self.inner_step(phi, samples, self.gradient_config.step_size(steps + k))
        return phi

    def adapted_policy(
        self, theta: Params, supports: Sequence[Samples], obs: Float[Tensor, "M B O"]
    ) -> Gaussian:
        """The policies after adaptation, in the given states, as a function of θ."""
        return self.policy.batched(self.adapted(theta, supports), obs)

    def open_surrogate(self, batch: MetaBatch, outer_loss: OuterLoss) -> Surrogate:
        """Show an outer update's objective, for inspection."""
        config = self.gradient_config
        *supports, query = (prepare(rollout, config) for rollout in batch.rollouts)

        def loss(theta: Params) -> Tensor:
            return outer_loss(theta, supports, query)[0]

        def log_ratio(theta: Params) -> Tensor:
            policy = self.adapted_policy(theta, supports, query.obs)
            return from_by_task(policy.log_prob(query.action) - query.log_prob, query.copies)

        return Surrogate(
            theta=self.theta,
            loss=loss,
            log_ratio=log_ratio,
            advantage=from_by_task(query.advantage, query.copies),
            rollout=batch.rollouts[-1],
            gamma=config.gamma,
            across_episodes=False,
            approximation="first-order bias" if config.first_order else None,
        )

    def diagnostics(self, gradient: Params, supports: Sequence[Samples]) -> dict[str, Tensor]:
        """How large the inner and the outer step are, and how far the first one moves θ."""
        support = thin(supports[0], 5)  # an average for the log needs no more
        before = for_each_task(self.theta, len(support.obs))
        after = self.adapted(self.theta, [support])
        alpha = self.gradient_config.inner_lr
        moved = [((after[name] - before[name]) / alpha).flatten(1) for name in before]
        divergence = self.policy.batched(before, support.obs).kl(
            self.policy.batched(after, support.obs)
        )
        return {
            "inner/gradient_norm": torch.cat(moved, dim=1).norm(dim=1).mean(),
            "inner/kl": (support.weight * divergence).sum(1).mean(),
            "outer/gradient_norm": ravel(gradient).norm(),
            "policy/std": self.theta["log_std"].exp().mean(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return θ."""
        return {"theta": self.theta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore θ, as a copy: an optimizer may write into it."""
        self.theta = {
            name: value.to(self.device, copy=True) for name, value in state["theta"].items()
        }
