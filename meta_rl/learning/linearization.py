"""Adaptation and policies, linearized: products with their Jacobians.

A `push` maps a change of the inputs to the change of the outputs (J u). A `pull` maps slopes the
other way: it is the transpose (Jᵀ s).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp, vjp

from meta_rl.core.distributions import Distribution
from meta_rl.core.types import Params
from meta_rl.learning.inner_loop import InnerLoop
from meta_rl.learning.mlp import Passes, layers_of
from meta_rl.learning.policy import MLPPolicy, for_each_task
from meta_rl.learning.samples import Samples
from meta_rl.learning.task_gradient import TaskGradient


class LinearStep:
    """One inner step φ' = φ - α ∇L(φ), and its Jacobian's products."""

    def __init__(
        self,
        loop: InnerLoop,
        phi: Params,
        samples: Samples,
        steps: Int[Tensor, "M"],
        first_order: bool,
    ) -> None:
        self.adapts = loop.adapts
        self.first_order = first_order
        self.slope = TaskGradient(loop.policy, loop.loss, phi, samples, kept=not first_order)
        self.before = (phi, self.adapting(self.slope.value))
        self.move: Callable[[Params, Params], Params] = partial(loop.moved, steps=steps)
        self.after = self.move(*self.before)

    def adapting(self, params: Params) -> Params:
        """Return the parameters that adapt."""
        return {name: value for name, value in params.items() if self.adapts(name)}

    def push(self, tangent: Params) -> Params:
        """Return the change of φ' for a change of φ: through φ, its step sizes and ∇L(φ)."""
        turned = {name: torch.zeros_like(value) for name, value in self.before[1].items()}
        if not self.first_order:
            turned = self.adapting(self.slope.product(tangent))
        moved: Params = jvp(self.move, self.before, (tangent, turned))[1]
        return moved

    def pull(self, cotangent: Params) -> Params:
        """Return the transpose of `push`; the Hessian in it is its own transpose."""
        on_phi: Params
        on_phi, on_gradient = vjp(self.move, *self.before)[1](cotangent)
        if self.first_order:
            return on_phi
        whole = {name: torch.zeros_like(value) for name, value in self.slope.value.items()}
        through = self.slope.product(whole | on_gradient)
        return {name: value + through.get(name, 0) for name, value in on_phi.items()}


class Linearization:
    """Each task's φ before the inner steps and after each, as a linear function near θ.

    Args:
        supports: The episodes of each inner step.
    """

    def __init__(
        self,
        inner: InnerLoop,
        theta: Params,
        supports: Sequence[Samples],
        first_order: bool = False,
    ) -> None:
        self.tasks, device = len(supports[0].obs), supports[0].obs.device
        phi = {name: value.contiguous() for name, value in for_each_task(theta, self.tasks).items()}
        taken = torch.zeros(self.tasks, dtype=torch.long, device=device)
        self.stages = [phi]
        self.steps: list[list[LinearStep]] = []  # of each stage but the last
        for k, samples in enumerate(supports):
            between = []
            for _ in range(inner.epochs):
                between.append(LinearStep(inner, phi, samples, taken + k, first_order))
                phi = between[-1].after
            self.steps.append(between)
            self.stages.append(phi)

    def push(self, tangent: Params) -> list[Params]:
        """Return the change of each stage's φ for a change of θ."""
        moved = [for_each_task(tangent, self.tasks)]
        for between in self.steps:
            along = moved[-1]
            for step in between:
                along = step.push(along)
            moved.append(along)
        return moved

    def pull(self, cotangents: Mapping[int, Params]) -> Params:
        """Return the gradient in θ, from gradients in some stages' φ, among them the last."""
        last = len(self.steps)
        total = {name: torch.zeros_like(value) for name, value in self.stages[last].items()}
        total |= cotangents[last]
        for k in reversed(range(last)):
            for step in reversed(self.steps[k]):
                total = step.pull(total)
            for name, value in cotangents.get(k, {}).items():
                total[name] = total[name] + value
        return {name: value.sum(0) for name, value in total.items()}


class LinearPolicy:
    """The policies of many tasks on whole rollouts, as linear functions near φ."""

    def __init__(self, policy: MLPPolicy, phi: Params, obs: Float[Tensor, "M B O"]) -> None:
        depth = len(policy.layers)
        self.passes = Passes(layers_of(phi, depth), policy.activation, obs, kept=True)
        self.rest = policy.parameter_names[2 * depth :]  # log_std, if there is one
        self.acting = policy.acting
        self.output = (self.passes.output, *(phi[name] for name in self.rest))
        self.distribution = policy.acting(*self.output)

    def push(self, tangent: Params) -> Distribution:
        """Return the change of the distributions' parameters for a change of φ."""
        along = (self.passes.push(tangent), *(tangent[name] for name in self.rest))
        change: Distribution = jvp(self.acting, self.output, along)[1]
        return change

    def pull(self, cotangent: Distribution) -> Params:
        """Return the transpose of `push`."""
        on_output, *on_rest = vjp(self.acting, *self.output)[1](cotangent)
        return self.passes.pull(on_output) | dict(zip(self.rest, on_rest, strict=True))
