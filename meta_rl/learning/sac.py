"""Soft actor-critic (Haarnoja et al. 2018, 2019), on the features of off-policy agents.

A state is whatever an agent makes of its observations: PEARL's is (s, z). Gradients of the critics'
loss flow into it, those of the actor's do not.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.core.checks import check_above_zero, check_layers, check_within_unit
from meta_rl.core.distributions import TanhGaussian
from meta_rl.core.errors import UserError
from meta_rl.core.ranks import mean_of_parts, sum_gradients
from meta_rl.core.seeding import Noise
from meta_rl.core.spaces import bounded
from meta_rl.core.types import EnvSpec, Metrics
from meta_rl.learning.networks import mlp

LOG_STD_BOUNDS = (-20.0, 2.0)
"""Bounds of the Gaussian's log standard deviation before squashing, as in the authors' code."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Settings of an actor, two critics with targets, and the weight of entropy."""

    outer_lr: float = 3e-4
    """Step size of Adam for all networks, above 0."""
    polyak: float = 0.005
    """Step size with which the target critics follow the critics after each gradient step (τ), in
    [0, 1]."""
    temperature: float = 1.0
    """Weight of the policy's entropy (α), above 0, relative to the scaled rewards. Entropy is that
    of actions scaled to [-1, 1]. With learn_temperature, this is the initial weight."""
    learn_temperature: bool = False
    """Adjust the temperature so that the policy's entropy approaches target_entropy."""
    target_entropy: float | None = None
    """Target entropy of the learned temperature, in nats, for actions scaled to [-1, 1]; at most
    0.69 (log 2) for each action dimension. Without it, -1 for each dimension."""
    hidden_sizes: tuple[int, ...] = (300, 300, 300)
    """Units of each hidden layer of the actor and of each critic, each at least 1."""

    def __post_init__(self) -> None:
        check_above_zero(self, "outer_lr", "temperature")
        check_within_unit(self, "polyak")
        check_layers(self, "hidden_sizes")
        if self.target_entropy is not None and not self.learn_temperature:
            raise UserError(
                "agent.target_entropy has no effect on a temperature that is not learned; set "
                "agent.learn_temperature, or leave it out"
            )


@dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    """Soft actor-critic of one discount."""

    gamma: float = 0.99
    """Discount per environment step (γ), in [0, 1). 1 is excluded, because values continue beyond
    the horizon."""
    reward_scale: float = 5.0
    """Factor of rewards in the critics' targets, above 0. With a larger factor, entropy counts
    less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "reward_scale")
        if not 0 <= self.gamma < 1:
            raise UserError(f"agent.gamma must be in [0, 1), got {self.gamma}")


def finite_bounds(spec: EnvSpec) -> tuple[Float[Tensor, "A"], Float[Tensor, "A"]]:
    """Return the least and the largest numbers of an action.

    Raises:
        UserError: Actions are choices or have no bounds.
    """
    low, high = spec.action_bounds
    if not bounded(spec.action_space, low, high):
        raise UserError(
            f"soft actor-critic needs continuous actions within finite bounds that lie apart, but "
            f"{spec.family or 'the environment'} takes {spec.action_space}; use an agent such "
            f"as rl2_ppo, or bound the actions"
        )
    return torch.tensor(low), torch.tensor(high)


def log_unit(spec: EnvSpec) -> float:
    """Return the entropy of actions in their own unit less that of actions scaled to [-1, 1].

    The density of the former is that of the latter, divided by half of each range.
    """
    low, high = finite_bounds(spec)
    return float((0.5 * (high - low)).log().sum())


def entropy_to_keep(config: ActorCriticConfig, spec: EnvSpec) -> float:
    """Return the target entropy of actions in their own unit, in nats.

    Raises:
        UserError: No policy within the bounds has it.
    """
    size = spec.action_size
    wanted = -size if config.target_entropy is None else config.target_entropy
    if wanted > size * log(2):
        raise UserError(
            f"agent.target_entropy must be at most {size * log(2):.2f}, that of uniform "
            f"actions in {size} dimensions, got {wanted}"
        )
    return wanted + log_unit(spec)


def wide(actor: nn.Sequential) -> nn.Sequential:
    """Let an actor start with the same wide distribution in every state."""
    head = actor[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(0.01)
        head.bias.zero_()
    return actor


def squashed(
    outputs: Float[Tensor, "*B A2"], low: Float[Tensor, "A"], high: Float[Tensor, "A"]
) -> TanhGaussian:
    """Return the policy of an actor's outputs: a mean and a log deviation for each action."""
    mean, log_std = outputs.chunk(2, dim=-1)
    return TanhGaussian(mean, log_std.clamp(*LOG_STD_BOUNDS), low, high)


def temperature_of(config: ActorCriticConfig, learned: Float[Tensor, "*G"]) -> Float[Tensor, "*G"]:
    """Return α as a constant: from the learned log α, or from the settings.

    If it is not learned, the setting counts, also in a run that starts from another.
    """
    if config.learn_temperature:
        return learned.detach().exp()
    return torch.full_like(learned, config.temperature, requires_grad=False)


@torch.no_grad()
def follow(targets: nn.Module, critics: nn.Module, polyak: float) -> None:
    """Move target critics towards the critics: θ' ← θ' + τ (θ - θ')."""
    for target, critic in zip(targets.parameters(), critics.parameters(), strict=True):
        target.lerp_(critic, polyak)


class SoftActorCritic(nn.Module):
    """An actor, twin critics with targets, and a temperature; the caller takes the steps.

    Args:
        state_size: Numbers of a state (S).

    Raises:
        UserError: Actions are choices or have no bounds, or cannot have the target entropy.
    """

    low: Tensor
    high: Tensor

    def __init__(self, config: SACConfig, state_size: int, spec: EnvSpec) -> None:
        super().__init__()
        low, high = finite_bounds(spec)
        self.config = config
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        actions = spec.action_size
        self.actor = wide(mlp(state_size, config.hidden_sizes, 2 * actions))
        self.critics, self.targets = (
            nn.ModuleList(mlp(state_size + actions, config.hidden_sizes, 1) for _ in range(2))
            for _ in range(2)
        )
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())
        self.target_entropy = entropy_to_keep(config, spec)
        self.log_unit = log_unit(spec)

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """α, as a constant."""
        return temperature_of(self.config, self.log_temperature)

    def policy(self, state: Float[Tensor, "*B S"]) -> TanhGaussian:
        """π(·|s)."""
        return squashed(self.actor(state), self.low, self.high)

    def critic_loss(
        self,
        state: Float[Tensor, "*B S"],
        action: Float[Tensor, "*B A"],
        reward: Float[Tensor, "*B"],
        terminated: Bool[Tensor, "*B"],
        next_state: Float[Tensor, "*B S"],
        noise: Noise,
    ) -> Float[Tensor, ""]:
        """Mean squared soft Bellman error, summed over both critics (2019, eq. 5-6).

        Only a failure ends the return; beyond a truncation it goes on. The entropy is that of
        actions scaled to [-1, 1]: in another unit, going on would be worth more or less than an
        end.
        """
        with torch.no_grad():
            next_action, log_prob = self.policy(next_state).sample_with_log_prob(noise)
            entropy = -(log_prob + self.log_unit)
            value = self.least(self.targets, next_state, next_action) + self.temperature * entropy
            target = self.config.reward_scale * reward + self.config.gamma * ~terminated * value
        return (self.values(self.critics, state, action) - target).square().flatten(1).mean(1).sum()

    def actor_loss(
        self, state: Float[Tensor, "*B S"], noise: Noise
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """E[α log π(a|s) - min Q(s, a)] (2019, eq. 7), and E[log π(a|s)]."""
        action, log_prob = self.policy(state).sample_with_log_prob(noise)
        value = self.least(self.critics, state, action)
        return (self.temperature * log_prob - value).mean(), log_prob.mean()

    def temperature_loss(self, log_prob: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return a loss that raises α where the entropy is below its target (2019, eq. 18)."""
        return -self.log_temperature * (log_prob.detach() + self.target_entropy)

    def follow(self) -> None:
        """Move the target critics towards the critics."""
        follow(self.targets, self.critics, self.config.polyak)

    def least(
        self, critics: nn.ModuleList, state: Float[Tensor, "*B S"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B"]:
        """The smaller of both critics' values, against overestimation (Fujimoto et al. 2018)."""
        return self.values(critics, state, action).amin(0)

    @staticmethod
    def values(
        critics: nn.ModuleList, state: Float[Tensor, "*B S"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "2 *B"]:
        """Q(s, a) of each critic."""
        pair = torch.cat([state, action], dim=-1)
        return torch.stack([critic(pair).squeeze(-1) for critic in critics])


class SACOptimizer:
    """Adam for each part of a soft actor-critic, in the order of its gradient step.

    Args:
        features: The module that makes states of observations; it learns with the critics.
    """

    def __init__(self, sac: SoftActorCritic, features: nn.Module) -> None:
        self.sac = sac
        self.parts = {
            "critics": [*sac.critics.parameters(), *features.parameters()],
            "actor": list(sac.actor.parameters()),
            "temperature": [sac.log_temperature],
        }
        self.optimizers = {
            name: torch.optim.Adam(part, lr=sac.config.outer_lr, fused=True)
            for name, part in self.parts.items()
        }

    def step(
        self, critic_loss: Tensor, state: Float[Tensor, "*B S"], noise: Noise, share: float = 1.0
    ) -> Metrics:
        """Take one step on the critics' loss, then on the actor's in the same states.

        Args:
            share: Share of these samples among those of all ranks.
        """
        self.descend("critics", share * critic_loss)
        actor_loss, log_prob = self.sac.actor_loss(state.detach(), noise)
        self.descend("actor", share * actor_loss)
        if self.sac.config.learn_temperature:
            self.descend("temperature", share * self.sac.temperature_loss(log_prob))
        self.sac.follow()
        found = {"outer/actor_loss": actor_loss.detach(), "policy/entropy": -log_prob.detach()}
        return mean_of_parts(found, share) | {"policy/temperature": self.sac.temperature}

    def descend(self, name: str, loss: Tensor) -> None:
        """Take one step of a part against the gradient of a loss, added up over ranks."""
        part = self.parts[name]
        # `backward` would also differentiate the critics in the actor's loss.
        for parameter, slope in zip(part, torch.autograd.grad(loss, part), strict=True):
            parameter.grad = slope
        sum_gradients(part)
        self.optimizers[name].step()

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of all parts."""
        return {name: each.state_dict() for name, each in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the moments, as a copy: Adam writes into them."""
        for name, each in self.optimizers.items():
            each.load_state_dict(deepcopy(state[name]))
