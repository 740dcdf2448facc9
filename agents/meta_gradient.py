"""Meta-gradient reinforcement learning: learns the return's settings along with the policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, grad_and_value, jacfwd

from agents._maml import PolicyGradientConfig
from agents._policy import PolicyAgent
from meta_rl.core.checks import check_above_zero, check_within_unit
from meta_rl.core.errors import UserError
from meta_rl.core.ranks import mean_over_ranks
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params, Rollout
from meta_rl.learning.descent import Descent
from meta_rl.learning.inner_loop import InnerLoop, scheduled, score_function_loss
from meta_rl.learning.policy import for_each_task
from meta_rl.learning.samples import Samples


@dataclass(frozen=True)
class Config(PolicyGradientConfig):
    """An actor-critic whose discount and lambda are learned online (Xu et al. 2018)."""

    gae_lambda: float = 0.95
    """Weight of longer backups in the advantages (λ), in [0, 1]; 1 is Monte Carlo."""
    learn_gamma: bool = True
    """Learn the discount, starting from gamma."""
    learn_lambda: bool = True
    """Learn the weight of longer backups, starting from gae_lambda."""
    learn_step_size: bool = False
    """Learn the step size of adaptation, starting from inner_lr."""
    outer_gamma: float = 0.99
    """Discount of the outer objective, which judges the learned settings, in [0, 1]."""
    outer_lambda: float = 1.0
    """Weight of longer backups in the outer objective's advantages, in [0, 1]; 1 is Monte Carlo."""
    outer_lr: float = 1e-2
    """Step size of Adam for the learned settings (β), above 0. It moves the logits of gamma and
    gae_lambda and the log of inner_lr."""
    trace_decay: float = 0.0
    """Decay of the trace that sums the learned settings' influence on past updates (μ), in [0, 1].
    0 counts only the last update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within_unit(self, "outer_gamma", "outer_lambda", "trace_decay")
        check_above_zero(self, "outer_lr")
        learned = (("gamma", self.learn_gamma), ("gae_lambda", self.learn_lambda))
        for name, learns in learned:
            if learns and not 0 < getattr(self, name) < 1:
                raise UserError(
                    f"agent.{name} must lie between 0 and 1 to be learned, got "
                    f"{getattr(self, name)}; choose another, or keep it fixed with "
                    f"learn_{name.removeprefix('gae_')}: false"
                )
        if not (self.learn_gamma or self.learn_lambda or self.learn_step_size):
            raise UserError(
                "agent.learn_gamma, agent.learn_lambda or agent.learn_step_size must be true"
            )


class MetaGradient(PolicyAgent):
    """Learns one policy θ for all its tasks, and the settings η of the return to learn from.

    θ takes one policy-gradient step a meta-batch. The critic is the linear baseline, refitted in
    closed form. So it belongs to the present γ; the paper's critic needs γ as an input. For other
    differences from the paper, see docs/agents.md. On a new task the policy goes on learning by
    the same step, while η stays as it is.
    """

    config: Config
    inner: InnerLoop

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        policy = config.policy(spec)
        inner = InnerLoop(policy, score_function_loss, scheduled(self.learned_step_size))
        super().__init__(config, policy, device, seed, inner)
        self.eta = self.initial_eta()
        self.optimizer = Descent(torch.optim.Adam, self.eta, lr=config.outer_lr)
        self.trace = {
            name: {each: torch.zeros_like(value) for each in self.eta}
            for name, value in self.theta.items()
        }

    def initial_eta(self) -> Params:
        """Return η at first: the logits of γ and λ and the log of α, as far as they are learned."""
        config = self.config
        gamma, lambda_, inner_lr = torch.tensor(
            [config.gamma, config.gae_lambda, config.inner_lr], device=self.device
        )
        eta = {}
        if config.learn_gamma:
            eta["gamma"] = gamma.logit()
        if config.learn_lambda:
            eta["gae_lambda"] = lambda_.logit()
        if config.learn_step_size:
            eta["inner_lr"] = inner_lr.log()
        return eta

    def setting(self, eta: Params, name: str) -> Float[Tensor, ""]:
        """Return γ, λ or α under η, or as configured."""
        if name not in eta:
            return torch.tensor(getattr(self.config, name), device=self.device)
        return eta[name].exp() if name == "inner_lr" else eta[name].sigmoid()

    def support(self, rollout: Rollout) -> Samples:
        """Return samples with the advantages of the learned return."""
        return self.estimate(rollout, self.eta)

    def estimate(self, rollout: Rollout, eta: Params) -> Samples:
        """Return samples with the advantages of the return η, differentiable in η."""
        gamma, lambda_ = self.setting(eta, "gamma"), self.setting(eta, "gae_lambda")
        return self.samples(rollout, gamma, lambda_)

    def learned_step_size(self, steps: Int[Tensor, "M"]) -> Float[Tensor, "M"]:
        """Return the learned α, the same for every inner step."""
        return self.setting(self.eta, "inner_lr").expand(len(steps))

    def shared_loss(self, theta: Params, samples: Samples) -> Float[Tensor, ""]:
        """L(θ), the mean over this rank's tasks, which share θ."""
        tasks = len(samples.obs)
        policy = self.policy.batched(for_each_task(theta, tasks), samples.obs)
        return self.inner.loss(policy, samples) / tasks

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Improve η by the effect of the last step on this batch, and take the next step (§1)."""
        (rollout,) = batch.rollouts

        # Δη = -β ∂J'(τ', θ', η')/∂θ' dθ'/dη
        judged = self.samples(rollout, self.config.outer_gamma, self.config.outer_lambda)
        slope = mean_over_ranks(grad(self.shared_loss)(self.theta, judged))
        gradient = {
            each: torch.stack(
                [(slope[name] * self.trace[name][each]).sum() for name in slope]
            ).sum()
            for each in self.eta
        }
        if self.meta_updates:  # the first has no step to judge
            self.optimizer.step(self.eta, gradient)

        # θ' = θ + f(τ, θ, η), and the trace z' = μ z + ∂f/∂η
        def f(eta: Params) -> tuple[Params, tuple[Params, Tensor]]:
            samples = self.estimate(rollout, eta)
            gradient, loss = grad_and_value(self.shared_loss)(self.theta, samples)
            alpha = self.setting(eta, "inner_lr")
            change = {name: -alpha * value for name, value in gradient.items()}
            return change, (change, loss)

        # Both are linear in the tasks' gradients.
        influence, (change, loss) = mean_over_ranks(jacfwd(f, has_aux=True)(self.eta))
        self.theta = {name: value + change[name] for name, value in self.theta.items()}
        self.trace = {
            name: {each: self.config.trace_decay * z[each] + influence[name][each] for each in z}
            for name, z in self.trace.items()
        }
        self.count(batch)
        settings = {
            f"policy/{name}": self.setting(self.eta, name)
            for name in ("gamma", "gae_lambda", "inner_lr")
        }
        return settings | {
            "inner/loss": loss,
            "inner/step_norm": torch.cat([value.flatten() for value in change.values()]).norm(),
            **self.spread(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return θ, η, its trace and Adam's moments."""
        own = {"eta": self.eta, "trace": self.trace, "optimizer": self.optimizer.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for each, value in state["eta"].items():
            self.eta[each].copy_(value)
        self.trace = {
            name: {each: value.to(self.device) for each, value in z.items()}
            for name, z in state["trace"].items()
        }
        if "optimizer" in state:  # a trimmed state has none
            self.optimizer.load_state_dict(state["optimizer"], self.eta)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MetaGradient:
    """Make the agent with its initial parameters."""
    return MetaGradient(config, spec, device, seed)
