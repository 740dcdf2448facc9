"""The inner loop of gradient-based meta-learning: policy-gradient steps on each task's episodes."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meta_rl.core.distributions import Distribution
from meta_rl.core.types import Metrics, Params
from meta_rl.learning.policy import MLPPolicy, for_each_task
from meta_rl.learning.ppo import clipped_surrogate
from meta_rl.learning.samples import Samples, thin
from meta_rl.learning.task_gradient import InnerLoss, task_gradient

StepSizes: TypeAlias = Callable[[Params, str, Tensor], Tensor]
"""(φ, name of a parameter, adaptations of each task so far (M,)) ↦ its step sizes α."""


def score_function_loss(policy: Distribution, samples: Samples) -> Float[Tensor, ""]:
    """-E[log π_φ(a|s) A] (Finn et al. 2017, eq. 4)."""
    log_prob = policy.log_prob(samples.action)
    return -(samples.weight * log_prob * samples.advantage).sum()


def likelihood_ratio_loss(policy: Distribution, samples: Samples) -> Float[Tensor, ""]:
    """-J^LR(φ) = -E[π_φ(a|s) / π_o(a|s) A] (Rothfuss et al. 2019, §5-6).

    Its gradient where φ collected is that of -E[log π A]; its curvature, -E[∇²π/π A], also counts
    how φ changes which actions are taken.
    """
    ratio = samples.log_ratio(policy).exp()
    return -(samples.weight * ratio * samples.advantage).sum()


def clipped_ratio_loss(clip: float) -> InnerLoss:
    """Return PPO's loss; where φ collected, its gradient is the policy gradient."""

    def loss(policy: Distribution, samples: Samples) -> Float[Tensor, ""]:
        ratio = samples.log_ratio(policy).exp()
        objective = clipped_surrogate(ratio, samples.advantage, clip)
        return -(samples.weight * objective).sum()

    return loss


def scheduled(alpha: Callable[[Int[Tensor, "M"]], Float[Tensor, "M"]]) -> StepSizes:
    """Return step sizes that depend only on how often a task has adapted."""

    def step_sizes(phi: Params, name: str, steps: Int[Tensor, "M"]) -> Float[Tensor, "M *B"]:
        return alpha(steps).view(-1, *[1] * (phi[name].dim() - 1))

    return step_sizes


LEARNED = "step_sizes."
"""Prefix of the names of learned step sizes in θ and in every φ."""


def learned(phi: Params, name: str, steps: Int[Tensor, "M"]) -> Float[Tensor, "M *B"]:
    """Return the step sizes in φ; steps beyond the learned ones take the last."""
    alpha = phi[LEARNED + name]
    task = torch.arange(len(steps), device=steps.device)
    return alpha[task, steps.clamp(max=alpha.shape[1] - 1)]


def initial_step_sizes(
    theta: Params, alpha: Float[Tensor, "K"], adapts: Callable[[str], bool], each_parameter: bool
) -> Params:
    """Return the part of θ that holds the learned step sizes α of K inner steps.

    Returns:
        One tensor for each parameter that adapts: (K, 1, ...) or (K, *its shape).
    """
    added = {}
    for name, value in theta.items():
        if adapts(name):
            shape = value.shape if each_parameter else [1] * value.dim()
            whole = alpha.view(-1, *[1] * value.dim()).expand(-1, *shape)
            added[LEARNED + name] = whole.clone()
    return added


def everything(name: str) -> bool:
    """Return True: all parts of θ adapt."""
    return True


class InnerLoop:
    """φ' = φ - α ∇L(φ), task by task (Finn et al. 2017, Alg. 3, lines 6-7).

    Args:
        adapts: Tells by its name whether a part of θ adapts.
        epochs: Gradient steps on each rollout's episodes.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        loss: InnerLoss,
        step_sizes: StepSizes,
        adapts: Callable[[str], bool] = everything,
        epochs: int = 1,
    ) -> None:
        self.policy = policy
        self.loss = loss
        self.step_sizes = step_sizes
        self.adapts = adapts
        self.epochs = epochs

    def step(
        self, phi: Params, samples: Samples, steps: Int[Tensor, "M"], first_order: bool = False
    ) -> Params:
        """Adapt to one rollout.

        Args:
            steps: Adaptations of each task before this one.
            first_order: Take the gradient for a constant.
        """
        for _ in range(self.epochs):
            phi = self.moved(phi, self.gradient(phi, samples, first_order), steps)
        return phi

    def moved(self, phi: Params, gradient: Params, steps: Int[Tensor, "M"]) -> Params:
        """φ - α ∇L."""
        return phi | {
            name: phi[name] - self.step_sizes(phi, name, steps) * value
            for name, value in gradient.items()
        }

    def gradient(self, phi: Params, samples: Samples, first_order: bool = False) -> Params:
        """Return each task's ∇L(φ) for the parameters that adapt; differentiable in φ, once."""
        if first_order:
            phi = {name: value.detach() for name, value in phi.items()}
        whole = task_gradient(self.policy, self.loss, phi, samples)
        return {name: value for name, value in whole.items() if self.adapts(name)}

    def trajectory(
        self, theta: Params, supports: Sequence[Samples], first_order: bool = False
    ) -> Iterator[Params]:
        """Yield each task's φ before the inner steps on the recorded episodes, and after each."""
        tasks, device = len(supports[0].obs), supports[0].obs.device
        phi = for_each_task(theta, tasks)
        steps = torch.zeros(tasks, dtype=torch.long, device=device)
        yield phi
        for k, samples in enumerate(supports):
            phi = self.step(phi, samples, steps + k, first_order)
            yield phi

    def adapted(
        self, theta: Params, supports: Sequence[Samples], first_order: bool = False
    ) -> Params:
        """Return each task's φ after all inner steps, as a function of θ."""
        *_, phi = self.trajectory(theta, supports, first_order)
        return phi

    def diagnostics(self, theta: Params, samples: Samples) -> Metrics:
        """Measure the first gradient of the inner step, and how far the step moves the policy."""
        tasks, device = len(samples.obs), samples.obs.device
        before = after = for_each_task(theta, tasks)
        steps = torch.zeros(tasks, dtype=torch.long, device=device)
        gradients = []
        for _ in range(self.epochs):
            gradients.append(self.gradient(after, samples))
            after = self.moved(after, gradients[-1], steps)
        inner = [value.flatten(1) for value in gradients[0].values()]
        some = thin(samples, 5)  # enough for a mean over states
        divergence = self.policy.batched(before, some.obs).kl(self.policy.batched(after, some.obs))
        metrics = {
            "inner/gradient_norm": torch.cat(inner, dim=1).norm(dim=1).mean(),
            "inner/kl": some.mean_over_tasks(divergence),
        }
        alpha = [value.flatten() for name, value in theta.items() if name.startswith(LEARNED)]
        return metrics | ({"inner/step_size": torch.cat(alpha).mean()} if alpha else {})
