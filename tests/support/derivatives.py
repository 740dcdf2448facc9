"""Derivatives by `torch.func` and `torch.autograd`, to hold the library's own against."""

import torch
from torch.func import grad

from agents import maml_trpo
from meta_rl.core.distributions import Distribution
from meta_rl.core.types import Params
from meta_rl.learning.inner_loop import InnerLoop


class FunctionalInnerLoop(InnerLoop):
    """An inner loop whose gradient is torch.func's, so that its steps can be differentiated often.

    It knows nothing of MLPs: its policy is `batched`, and it differentiates with respect to what
    adapts, not to everything.
    """

    @classmethod
    def like(cls, inner, loss=None):
        """The same inner loop, or one that descends another loss."""
        loss = loss or inner.loss
        return cls(inner.policy, loss, inner.step_sizes, inner.adapts, inner.epochs)

    def objective(self, phi, samples):
        """L(φ)."""
        return self.loss(self.policy.batched(phi, samples.obs), samples)

    def gradient(self, phi, samples, first_order=False):
        if first_order:
            phi = {name: value.detach() for name, value in phi.items()}
        adapting = {name: value for name, value in phi.items() if self.adapts(name)}
        return grad(lambda moving: self.objective(phi | moving, samples))(adapting)


class ParameterInnerLoop(FunctionalInnerLoop):
    """An inner loop on a loss (φ, samples) ↦ L(φ) that no policy stands between."""

    def objective(self, phi, samples):
        return self.loss(phi, samples)


def adapted_policies(inner, theta, episodes, first_order=False) -> dict[int, Distribution]:
    """The policies after so many inner steps, each on its own episodes, for `torch.func`."""
    trajectory = FunctionalInnerLoop.like(inner).trajectory(theta, episodes[:-1], first_order)
    return {k: inner.policy.batched(phi, episodes[k].obs) for k, phi in enumerate(trajectory)}


def gradient_of(function, theta) -> Params:
    """The gradient of θ ↦ f(θ) by ordinary automatic differentiation."""
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    gradient = torch.autograd.grad(function(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradient, strict=True))


def task_loss(agent, stages):
    """What the agent's outer step descends, as a function of θ and some of the tasks."""
    if isinstance(agent, maml_trpo.MAMLTRPO):
        return lambda theta, which: maml_trpo.outer_loss(theta, stages.of(which))
    return agent.outer_loss(stages)
