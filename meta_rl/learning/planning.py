"""Planning by sampling: tries action sequences in a model, and averages the good ones."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.checks import check_above_zero, check_at_least, check_within_unit
from meta_rl.core.errors import UserError


@dataclass(frozen=True)
class PlannerConfig:
    """How actions are planned."""

    planner: Literal["mppi", "cem"] = "mppi"
    """`mppi` averages all candidates, weighted by their returns. `cem` averages the best ones."""
    planning_horizon: int = 10
    """Steps that a plan looks ahead (H), at least 1."""
    candidates: int = 1000
    """Action sequences that each iteration tries in every world, at least 2."""
    planning_iterations: int = 2
    """Iterations at every step, at least 1. Each starts from the plan of the one before."""
    plan_std: float = 0.5
    """Standard deviation of the candidates around the plan, above 0. The unit is half of an
    action's range."""
    plan_smoothness: float = 0.5
    """Correlation between a candidate's deviations at consecutive steps, in [0, 1]. 0 draws each
    step independently."""
    plan_temperature: float = 0.05
    """MPPI's temperature (λ), in standard deviations of the candidates' returns, above 0. Smaller
    values give more weight to the best candidate."""
    elites: int = 50
    """Candidates that CEM averages, at least 2 and at most all of them."""
    gamma: float = 1.0
    """Discount per step of predicted rewards (γ), in [0, 1]."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "planning_horizon", "planning_iterations")
        check_at_least(2, self, "candidates", "elites")
        check_above_zero(self, "plan_std", "plan_temperature")
        check_within_unit(self, "plan_smoothness", "gamma")
        if self.planner == "cem" and self.elites > self.candidates:
            raise UserError(
                f"agent.elites must be at most agent.candidates, which is {self.candidates}, got "
                f"{self.elites}"
            )


class Planner:
    """Improves the plans of B worlds at once, by MPPI or CEM.

    Candidates are the plan and normal deviations from it, each with a weight. The plan becomes
    their weighted mean. MPPI's weights are exp(R / λ) (Williams et al. 2017, Alg. 2). CEM's are
    equal for the best candidates and 0 for others (Rubinstein 1999). With both, a further iteration
    has the standard deviation of the weighted candidates (Hansen et al. 2022, eq. 4).

    All worlds and all steps share one set of deviations, drawn once (as in STORM, Bhardwaj et al.
    2021). So planning is a function of the model and the observation: it needs no noise, and runs
    in an exported policy. Candidate 0 is the plan itself.

    Args:
        generator: Draws the deviations.
    """

    def __init__(
        self,
        config: PlannerConfig,
        action_size: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.config = config
        shape = (config.candidates, config.planning_horizon, action_size)
        drawn = torch.randn(shape, generator=generator)
        drawn[0] = 0.0
        self.deviations: Float[Tensor, "K H A"] = smoothed(drawn, config.plan_smoothness).to(device)

    def improve(
        self,
        plan: Float[Tensor, "B H A"],
        imagined: Callable[[Float[Tensor, "B K H A"]], Float[Tensor, "B K"]],
    ) -> Float[Tensor, "B H A"]:
        """Return better plans, within [-1, 1].

        Args:
            imagined: Returns of candidates, as the model predicts them.
        """
        std: float | Tensor = self.config.plan_std
        for _ in range(self.config.planning_iterations):
            free = plan.unsqueeze(1) + std * self.deviations
            returns = imagined(free.clamp(-1, 1))
            # Means are taken before clipping: a mean of clipped actions never reaches a bound.
            share = self.shares(returns)
            mean = torch.einsum("bk,bkha->bha", share, free)
            variance = torch.einsum("bk,bkha->bha", share, (free - mean.unsqueeze(1)) ** 2)
            std = variance.sqrt().clamp(min=LEAST_STD).unsqueeze(1)
            plan = mean.clamp(-1, 1)
        return plan

    def shares(self, returns: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Return the weight of each candidate; if returns are equal, MPPI's weights are, too."""
        if self.config.planner == "cem":
            best = returns.topk(self.config.elites, dim=1).indices
            return torch.zeros_like(returns).scatter(1, best, 1 / self.config.elites)
        spread = returns.std(1, correction=0, keepdim=True) + 1e-8
        scaled = (returns - returns.amax(1, keepdim=True)) / spread
        return (scaled / self.config.plan_temperature).softmax(1)


LEAST_STD = 0.02
"""Smallest standard deviation of candidates, however much the best of them agree."""


def smoothed(noise: Float[Tensor, "K H A"], correlation: float) -> Float[Tensor, "K H A"]:
    """Correlate noise along time: d_t = ρ d_{t-1} + √(1 - ρ²) n_t, of variance 1 at every step."""
    steps = [noise[:, 0]]
    for t in range(1, noise.shape[1]):
        steps.append(correlation * steps[-1] + sqrt(1 - correlation**2) * noise[:, t])
    return torch.stack(steps, dim=1)


def moved_on(plan: Float[Tensor, "*B H A"]) -> Float[Tensor, "*B H A"]:
    """Return plans without their first step; the last one is repeated."""
    return torch.cat([plan[..., 1:, :], plan[..., -1:, :]], dim=-2)


def imagined_return(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    obs: Float[Tensor, "B O"],
    actions: Float[Tensor, "B K H A"],
    gamma: float,
) -> Float[Tensor, "B K"]:
    """Return Σ_h γ^h r_h of K action sequences from each observation.

    Args:
        step: (observations (B, K, O), actions (B, K, A)) ↦ next observations and rewards (B, K).
    """
    state = obs.unsqueeze(1).expand(-1, actions.shape[1], -1)
    total = torch.zeros_like(actions[:, :, 0, 0])
    for h in range(actions.shape[2]):
        state, reward = step(state, actions[:, :, h])
        total = total + gamma**h * reward
    return total
