"""What the gradient-based agents share: a policy that adapts by policy-gradient steps (MAML)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad

from agents._policy import PolicyAgent, PolicyConfig, Samples, prepare, thin
from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.distributions import Distribution
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Surrogate
from meta_rl.core.types import (
    EnvSpec,
    MetaBatch,
    Params,
    Phase,
    Rollout,
    Tasks,
)
from meta_rl.learning.policy import for_each_task, from_by_task
from meta_rl.learning.trust_region import ravel


@dataclass(frozen=True)
class PolicyGradientConfig(PolicyConfig):
    """A policy that takes policy-gradient steps on each task."""

    inner_lr: float = 0.1
    """Step size alpha of adaptation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "inner_lr")

    def step_size(self, steps: Int[Tensor, "K"]) -> Float[Tensor, "K"]:
        """Return alpha for tasks that have adapted so many times."""
        return torch.full_like(steps, self.inner_lr, dtype=torch.float32)


@dataclass(frozen=True)
class AdaptationConfig(PolicyGradientConfig):
    """Adaptation by policy-gradient steps from a learned initialization."""

    later_inner_lr: float | None = None
    """Step size of every adaptation step after the first; none means inner_lr."""
    adaptation_steps: int = 1
    """Inner gradient steps K; each needs fresh episodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "later_inner_lr")
        check_at_least(1, self, "adaptation_steps")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One rollout before adaptation, and one after each inner step."""
        return super().phases * (self.adaptation_steps + 1)

    def step_size(self, steps: Int[Tensor, "K"]) -> Float[Tensor, "K"]:
        """Return alpha for tasks that have adapted so many times."""
        later = self.inner_lr if self.later_inner_lr is None else self.later_inner_lr
        return torch.where(steps == 0, self.inner_lr, later)


@dataclass(frozen=True)
class MAMLConfig(AdaptationConfig):
    """Adaptation whose outcome is differentiated: MAML and what others have added to it."""

    first_order: bool = False
    """Drop the second derivatives from the meta-gradient (FOMAML)."""
    first_order_updates: int = 0
    """Drop them from so many meta-updates at first (MAML++, derivative-order annealing)."""
    adapt: Literal["all", "head"] = "all"
    """What adapts: all parameters, or the last layer and log_std alone (ANIL)."""
    step_sizes: Literal["fixed", "per_layer", "per_parameter"] = "fixed"
    """Learn the inner steps' sizes with θ, each step its own, beginning at inner_lr: one for each
    weight matrix and bias vector (MAML++), or one for each parameter (Meta-SGD)."""
    multi_step_updates: int = 0
    """Meta-updates over which the losses after the earlier inner steps fade from the objective,
    all alike at first (MAML++, multi-step loss); 0 counts the last alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "first_order_updates", "multi_step_updates")
        if self.step_sizes != "fixed" and self.adaptation_steps == 1 and self.later_inner_lr:
            raise UserError(
                "agent.later_inner_lr has no effect where the size of a single inner step is "
                "learned: later steps take it, too; leave it out, or raise adaptation_steps"
            )
        if self.multi_step_updates and self.adaptation_steps == 1:
            raise UserError(
                "agent.multi_step_updates counts losses after several inner steps, but "
                "agent.adaptation_steps is 1; raise it, or leave multi_step_updates at 0"
            )


class GradientAdapter(PolicyAgent):
    """A policy that takes a policy-gradient step on each task's own experience.

    The context also counts them: `"steps": adaptations so far (M,)`.
    """

    config: PolicyGradientConfig

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Any]:
        """Start every task from θ, not adapted yet."""
        return super().begin(tasks, copies, training) | {"steps": self.none_yet(len(tasks))}

    def none_yet(self, tasks: int) -> Int[Tensor, "M"]:
        """How often tasks have adapted before they do."""
        return torch.zeros(tasks, dtype=torch.long, device=self.device)

    def adapt(self, context: dict[str, Any], rollout: Rollout) -> dict[str, Any]:
        """Take one inner step on each task (Finn et al. 2017, Alg. 3, lines 6-7)."""
        samples = self.support(rollout)
        with torch.no_grad():  # acting needs the values alone
            phi = self.inner_step(context["policy"], samples, context["steps"])
        return {"policy": phi, "steps": context["steps"] + 1}

    def support(self, rollout: Rollout) -> Samples:
        """A rollout as an inner step learns from it."""
        return prepare(rollout, self.config)

    def inner_step(self, phi: Params, samples: Samples, steps: Int[Tensor, "M"]) -> Params:
        """One policy-gradient step on each task: φ' = φ - α ∇L(φ).

        Args:
            steps: Adaptations of each task before this one.
        """
        gradient = self.inner_gradient(phi, samples)
        return phi | {
            name: phi[name] - self.step_size(phi, name, steps) * value
            for name, value in gradient.items()
        }

    def inner_gradient(self, phi: Params, samples: Samples) -> Params:
        """∇L(φ) of each task, which the sum over tasks keeps apart."""
        gradient: Params = grad(self.policy_loss)(phi, samples)
        return gradient

    def step_size(self, phi: Params, name: str, steps: Int[Tensor, "M"]) -> Float[Tensor, "M *B"]:
        """α of a parameter, in a shape that multiplies it."""
        alpha = self.config.step_size(steps)
        return alpha.view(-1, *[1] * (phi[name].dim() - 1))

    def policy_loss(self, phi: Params, samples: Samples) -> Float[Tensor, ""]:
        """L(φ) = -E[log π_φ(a|s) A], summed over tasks, which share no parameters here."""
        log_prob = self.policy.batched(phi, samples.obs).log_prob(samples.action)
        return -(samples.weight * log_prob * samples.advantage).sum()

    def trajectory(self, theta: Params, supports: Sequence[Samples]) -> Iterator[Params]:
        """φ of each task before the inner steps on the recorded episodes, and after each one."""
        phi = for_each_task(theta, len(supports[0].obs))
        steps = self.none_yet(len(supports[0].obs))
        yield phi
        for k, samples in enumerate(supports):
            phi = self.inner_step(phi, samples, steps + k)
            yield phi

    def adapted(self, theta: Params, supports: Sequence[Samples]) -> Params:
        """φ of each task after all inner steps, as a function of θ."""
        *_, phi = self.trajectory(theta, supports)
        return phi

    def diagnostics(self, gradient: Params, supports: Sequence[Samples]) -> dict[str, Tensor]:
        """How large the inner and the outer step are, and how far the first one moves θ."""
        support = thin(supports[0], 5)  # an average for the log needs no more
        before, after = self.trajectory(self.theta, [support])
        inner = [value.flatten(1) for value in self.inner_gradient(before, support).values()]
        divergence = self.policy.batched(before, support.obs).kl(
            self.policy.batched(after, support.obs)
        )
        return {
            "inner/gradient_norm": torch.cat(inner, dim=1).norm(dim=1).mean(),
            "inner/kl": support.mean_over_tasks(divergence),
            "outer/gradient_norm": ravel(gradient).norm(),
            **self.spread(),
        }


class MAML(GradientAdapter):
    """Learns the θ from which adaptation leads furthest, by the gradient through the inner steps.

    θ holds the policy's parameters and, if they are learned, the inner steps' sizes, under names
    that begin with `STEP_SIZES`: they are part of the same outer step, and of the context.
    """

    config: MAMLConfig

    STEP_SIZES = "step_sizes."

    def __init__(self, config: MAMLConfig, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed)
        if config.step_sizes != "fixed":
            self.theta |= self.initial_step_sizes()

    def initial_step_sizes(self) -> Params:
        """α of the K inner steps for all that adapts: (K, 1, ...) a tensor, or (K, *its shape)."""
        config = self.config
        alpha = config.step_size(torch.arange(config.adaptation_steps, device=self.device))
        learned = {}
        for name, value in self.theta.items():
            if self.adapts(name):
                scalar = config.step_sizes == "per_layer"
                shape = [1] * value.dim() if scalar else value.shape
                learned[self.STEP_SIZES + name] = (
                    alpha.view(-1, *[1] * value.dim()).expand(-1, *shape).clone()
                )
        return learned

    def adapts(self, name: str) -> bool:
        """Whether the inner step moves this part of θ.

        If only the head does (ANIL, Raghu et al. 2020), log_std is part of it: it is to the
        deviation what the last layer's bias is to the mean.
        """
        if name.startswith(self.STEP_SIZES):
            return False
        return self.config.adapt == "all" or name.startswith(self.policy.head)

    @property
    def first_order(self) -> bool:
        """Whether this meta-update takes the inner gradients for constants."""
        config = self.config
        return config.first_order or self.meta_updates < config.first_order_updates

    def inner_gradient(self, phi: Params, samples: Samples) -> Params:
        """∇L(φ) with respect to what adapts, differentiable in φ unless first order."""
        if self.first_order:
            phi = {name: value.detach() for name, value in phi.items()}
        adapting = {name: value for name, value in phi.items() if self.adapts(name)}
        slope = grad(lambda moving: self.policy_loss(phi | moving, samples))
        gradient: Params = slope(adapting)
        return gradient

    def step_size(self, phi: Params, name: str, steps: Int[Tensor, "M"]) -> Float[Tensor, "M *B"]:
        """α of a parameter; steps beyond those learned take the last one's."""
        learned = phi.get(self.STEP_SIZES + name)
        if learned is None:
            return super().step_size(phi, name, steps)
        return learned[torch.arange(len(steps)), steps.clamp(max=learned.shape[1] - 1)]

    def stage_weights(self) -> dict[int, float]:
        """Which stages the objective counts, by their inner steps, and how much.

        Multi-step loss (Antoniou et al. 2019, §4): all stages alike at first, in the end the last.
        """
        last, fading = self.config.adaptation_steps, self.config.multi_step_updates
        spread = max(0.0, 1 - self.meta_updates / fading) if fading else 0.0
        weights = {k: spread / last for k in range(1, last + 1) if spread > 0}
        return weights | {last: spread / last + 1 - spread}

    def policies(
        self, theta: Params, episodes: Sequence[Samples], stages: Collection[int]
    ) -> dict[int, Distribution]:
        """The policies after so many inner steps, each on its own episodes, as functions of θ."""
        *supports, _ = episodes
        return {
            k: self.policy.batched(phi, episodes[k].obs)
            for k, phi in enumerate(self.trajectory(theta, supports))
            if k in stages
        }

    def acting_policies(
        self, episodes: Sequence[Samples], stages: Collection[int]
    ) -> dict[int, Distribution]:
        """The policies that played the episodes, in the episodes' precision."""
        dtype = episodes[0].obs.dtype
        with torch.no_grad():
            theta = {name: value.to(dtype) for name, value in self.theta.items()}
            return self.policies(theta, episodes, stages)

    def open_surrogate(
        self,
        batch: MetaBatch,
        episodes: Sequence[Samples],
        loss: Callable[[Params], tuple[Tensor, Any]],
    ) -> Surrogate:
        """Show an outer update's objective, for inspection."""
        last, query = len(episodes) - 1, episodes[-1]

        def log_ratio(theta: Params) -> Tensor:
            policy = self.policies(theta, episodes, [last])[last]
            return from_by_task(query.log_ratio(policy), query.copies)

        return Surrogate(
            theta=self.theta,
            loss=lambda theta: loss(theta)[0],
            log_ratio=log_ratio,
            advantage=from_by_task(query.advantage, query.copies),
            rollout=batch.rollouts[-1],
            gamma=self.config.gamma,
            across_episodes=False,
            approximation="first-order bias" if self.first_order else None,
        )

    def divergence(
        self,
        old: Mapping[int, Distribution],
        new: Mapping[int, Distribution],
        episodes: Sequence[Samples],
    ) -> Float[Tensor, ""]:
        """How far the policies that the objective counts have moved, in nats."""
        weights = self.stage_weights().items()
        return torch.stack(
            [share * episodes[k].mean_over_tasks(old[k].kl(new[k])) for k, share in weights]
        ).sum()

    def diagnostics(self, gradient: Params, supports: Sequence[Samples]) -> dict[str, Tensor]:
        """Add the mean of the step sizes, if they are learned."""
        metrics = super().diagnostics(gradient, supports)
        learned = [value for name, value in self.theta.items() if name.startswith(self.STEP_SIZES)]
        if learned:
            metrics["inner/step_size"] = torch.cat([value.flatten() for value in learned]).mean()
        return metrics
