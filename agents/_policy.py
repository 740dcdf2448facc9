"""The common base of agents with one policy: acting, adapting and saving."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.checks import check_at_least
from meta_rl.core.distributions import Distribution
from meta_rl.core.ranks import mean_over_ranks
from meta_rl.core.seeding import Noise, make_generator
from meta_rl.core.types import MetaBatch, Metrics, Params, Phase, Rollout, Tasks, TimeStep
from meta_rl.learning.descent import Descent
from meta_rl.learning.inner_loop import InnerLoop
from meta_rl.learning.normalization import RunningMoments
from meta_rl.learning.policy import MLPPolicy, MLPPolicyConfig, for_each_task
from meta_rl.learning.samples import AdvantageConfig, Samples, prepare
from meta_rl.learning.trust_region import ravel


@dataclass(frozen=True)
class PolicyConfig(MLPPolicyConfig, AdvantageConfig):
    """Settings of a policy and of its advantages."""

    episodes_per_phase: int = 1
    """Episodes that each copy plays in one phase, at least 1. A phase is the rollout before
    adaptation, or the one after an adaptation step."""
    normalize_observations: bool = False
    """Shift and scale the policy's observations by their running moments."""

    def __post_init__(self) -> None:
        for part in (MLPPolicyConfig, AdvantageConfig):
            part.__post_init__(self)
        check_at_least(1, self, "episodes_per_phase")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The rollouts that a meta-update needs."""
        return (Phase(self.episodes_per_phase),)


class PolicyAgent:
    """One policy θ; the context is a set of its parameters for each task.

    The context is `{"policy": parameters with leading axis M}` and, with an inner loop,
    `"steps": adaptations so far (M,)`. An agent adds `meta_update`, which moves θ.

    Args:
        policy: The policy that acts; its initial parameters are θ.
        inner: How the parameters adapt to a task's own experience; without it, they do not.
    """

    copies_share_experience = True
    learns_over_ranks = True
    descent: Descent | None = None
    """The optimizer of θ, if the agent has one; its state is saved with θ."""
    generator: torch.Generator | None = None
    """The generator that shuffles samples, if the agent shuffles any; its state is saved with θ."""

    def __init__(
        self,
        config: PolicyConfig,
        policy: MLPPolicy,
        device: torch.device,
        seed: int,
        inner: InnerLoop | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.policy = policy
        self.inner = inner
        self.obs_moments = RunningMoments.empty((policy.observation_size,), device)
        self.theta = policy.initial_parameters(make_generator(seed, "init"), device)
        self.meta_updates = 0
        self.phases = config.phases

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Any]:
        """Start every task from the learned parameters θ."""
        context: dict[str, Any] = {"policy": for_each_task(self.theta, len(tasks))}
        if self.inner is not None:
            context["steps"] = torch.zeros(len(tasks), dtype=torch.long, device=self.device)
        return context

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
        return self.policy.batched(context["policy"], self.shown(timestep.obs)), context

    def shown(self, obs: Float[Tensor, "*B O"]) -> Float[Tensor, "*B O"]:
        """Return observations as the policy sees them."""
        return self.obs_moments.normalize(obs) if self.config.normalize_observations else obs

    def adapt(self, context: dict[str, Any], rollout: Rollout) -> dict[str, Any]:
        """Take one inner step on each task's own episodes; without an inner loop, learn nothing."""
        if self.inner is None:
            return context
        with torch.no_grad():  # acting needs no gradients
            phi = self.inner.step(context["policy"], self.support(rollout), context["steps"])
        return {"policy": phi, "steps": context["steps"] + 1}

    def support(self, rollout: Rollout) -> Samples:
        """Return the samples that an inner step learns from."""
        return self.samples(rollout)

    def samples(
        self,
        rollout: Rollout,
        gamma: float | Float[Tensor, ""] | None = None,
        lambda_: float | Float[Tensor, ""] | None = None,
    ) -> Samples:
        """Return the samples of an update, with the config's γ and λ or the given ones."""
        samples = prepare(rollout, self.config, gamma, lambda_)
        return replace(samples, obs=self.shown(samples.obs))

    def count(self, batch: MetaBatch) -> None:
        """End a meta-update. Moments change only now: the batch was played with the old ones."""
        self.meta_updates += 1
        self.policy.keep_floor(self.theta)
        if self.config.normalize_observations:
            for rollout in batch.rollouts:
                self.obs_moments = self.obs_moments.merge(rollout.obs, rollout.valid)

    def diagnostics(self, gradient: Params, support: Samples) -> Metrics:
        """Measure the inner and the outer gradient, and how far an inner step moves the policy.

        Args:
            gradient: The outer gradient, a mean over the tasks of all ranks.
        """
        inner = self.inner.diagnostics(self.theta, support) if self.inner else {}
        inner = mean_over_ranks(inner)
        return inner | {"outer/gradient_norm": ravel(gradient).norm(), **self.spread()}

    def spread(self) -> Metrics:
        """Return the policy's standard deviation, for the log; nothing for discrete actions."""
        if "log_std" not in self.theta:
            return {}
        return {"policy/std": self.theta["log_std"].exp().mean()}

    def state_dict(self) -> dict[str, Any]:
        """Return θ, the number of meta-updates, and the states of the optimizer and the rest."""
        state: dict[str, Any] = {"theta": self.theta, "meta_updates": self.meta_updates}
        if self.descent is not None:
            state["optimizer"] = self.descent.state_dict()
        if self.generator is not None:
            state["generator"] = self.generator.get_state()
        if self.config.normalize_observations:
            state["obs_moments"] = vars(self.obs_moments)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore θ, as a copy: an optimizer may write into it."""
        self.theta = {
            name: value.to(self.device, copy=True) for name, value in state["theta"].items()
        }
        self.meta_updates = state.get("meta_updates", 0)  # the first checkpoints did not count
        if self.descent is not None:
            self.descent.load_state_dict(state.get("optimizer"), self.theta)
        if self.generator is not None and "generator" in state:  # MAML once shuffled nothing
            self.generator.set_state(state["generator"].cpu())
        if self.config.normalize_observations:
            self.obs_moments = RunningMoments.loaded(state["obs_moments"], self.device)
