"""An actor and critics of several discounts at once (Grigsby et al. 2024, §3 and App. A).

A state is whatever an agent makes of its observations: here, of a trial. Long discounts are the
aim, and short ones are learned sooner; all share the state. Each discount has its own policy and
its own values, as heads of the same networks. The policy of the last one acts.

The values of each discount are scaled to mean 0 and variance 1 (PopArt, van Hasselt et al. 2016).
So discounts count alike, whatever the rewards are, and a temperature means the same for all.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.core.distributions import TanhGaussian
from meta_rl.core.seeding import Noise
from meta_rl.core.types import EnvSpec
from meta_rl.learning.critic import PopArt
from meta_rl.learning.networks import layers, mlp
from meta_rl.learning.sac import (
    ActorCriticConfig,
    entropy_to_keep,
    finite_bounds,
    follow,
    squashed,
    temperature_of,
    wide,
)


class DiscountedCritic(nn.Module):
    """Q(s, a) for G discounts: one body, a head for each.

    The first layer has separate weights for state and action, and adds up their outputs, because
    one state meets an action of each discount's policy.
    """

    def __init__(
        self, state_size: int, action_size: int, hidden_sizes: Sequence[int], discounts: int
    ) -> None:
        super().__init__()
        self.of_state = nn.Linear(state_size, hidden_sizes[0])
        self.of_action = nn.Linear(action_size, hidden_sizes[0], bias=False)
        self.body = nn.Sequential(nn.ReLU(), *layers(hidden_sizes))
        self.head = nn.Linear(hidden_sizes[-1], discounts)

    def forward(
        self, state: Float[Tensor, "*B S"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B G"]:
        """Return each discount's value of one action, scaled."""
        values: Tensor = self.head(self.body(self.of_state(state) + self.of_action(action)))
        return values

    def of_each(
        self, state: Float[Tensor, "*B S"], action: Float[Tensor, "*B G A"]
    ) -> Float[Tensor, "*B G"]:
        """Return each discount's value of its own action, scaled."""
        features = self.body(self.of_state(state).unsqueeze(-2) + self.of_action(action))
        values: Tensor = (features * self.head.weight).sum(-1) + self.head.bias
        return values


class DiscountedActorCritic(PopArt):
    """Policies of G discounts, twin critics with targets, and temperatures; callers take steps.

    Differs from soft actor-critic (`learning.sac`): entropy counts for the actor alone, and not for
    the values, as Ball et al. (2023, §4) advise; AMAGO has none at all. Over a trial's hundreds of
    steps it would outweigh the rewards, and the moments of the values would follow it.

    Args:
        state_size: Numbers of a state (S).
        gammas: Discounts; the policy of the last one acts.

    Raises:
        UserError: Actions are choices or have no bounds, or cannot have the target entropy.
    """

    low: Tensor
    high: Tensor
    gamma: Tensor
    returns_remembered = 1e6
    """The moments follow about this many of the latest sampled steps: policies improve, and values
    move."""

    def __init__(
        self, config: ActorCriticConfig, state_size: int, gammas: Sequence[float], spec: EnvSpec
    ) -> None:
        super().__init__()
        self.config = config
        bounds = dict(zip(("low", "high"), finite_bounds(spec), strict=True))
        for name, value in (bounds | {"gamma": torch.tensor(gammas)}).items():
            self.register_buffer(name, value, persistent=False)
        actions, sizes, count = spec.action_size, config.hidden_sizes, len(gammas)
        self.actor = wide(mlp(state_size, sizes, count * 2 * actions))
        self.critics, self.targets = (
            nn.ModuleList(DiscountedCritic(state_size, actions, sizes, count) for _ in range(2))
            for _ in range(2)
        )
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.full((count,), config.temperature).log())
        self.target_entropy = entropy_to_keep(config, spec)
        self.begin_moments((count,))

    @property
    def scaled_heads(self) -> Sequence[nn.Linear]:
        """The last layers of all critics and targets, an output for each discount."""
        return [each.head for each in (*self.critics, *self.targets)]

    @property
    def temperature(self) -> Float[Tensor, "G"]:
        """α of each discount, as a constant."""
        return temperature_of(self.config, self.log_temperature)

    def policies(self, state: Float[Tensor, "*B S"]) -> TanhGaussian:
        """π_g(·|s) of each discount, (*B, G, A)."""
        outputs = self.actor(state).unflatten(-1, (len(self.gamma), -1))
        return squashed(outputs, self.low, self.high)

    def policy(self, state: Float[Tensor, "*B S"]) -> TanhGaussian:
        """The policy that acts: that of the last discount."""
        mean, log_std, low, high = self.policies(state)
        return TanhGaussian(mean[..., -1, :], log_std[..., -1, :], low, high)

    @torch.no_grad()
    def target(
        self,
        reward: Float[Tensor, "*B"],
        ended: Bool[Tensor, "*B"],
        next_state: Float[Tensor, "*B S"],
        noise: Noise,
    ) -> Float[Tensor, "*B G"]:
        """Return r + γ_g min Q'_g(s', a'_g), in the rewards' own unit.

        Args:
            ended: Where nothing comes after the step.
        """
        action = self.policies(next_state).sample(noise)
        value = self.unscaled(self.least(self.targets, next_state, action))
        return reward.unsqueeze(-1) + self.gamma * ~ended.unsqueeze(-1) * value

    def critic_loss(
        self,
        state: Float[Tensor, "*B S"],
        action: Float[Tensor, "*B A"],
        target: Float[Tensor, "*B G"],
        weight: Float[Tensor, "*B"],
    ) -> Float[Tensor, ""]:
        """Weighted squared Bellman error, scaled; sum over both critics, mean over discounts."""
        values = torch.stack([critic(state, action) for critic in self.critics])
        return (weight * (values - self.scaled(target)).square().mean(-1)).sum()

    def actor_loss(
        self, state: Float[Tensor, "*B S"], weight: Float[Tensor, "*B"], noise: Noise
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """What lowers E[α log π_g(a|s) - min Q_g(s, a)], and the entropy of the policy that acts.

        The loss also brings entropies to their target, if temperatures are learned.

        Gradients reach the state through the policies alone, and no critic: the slope of the values
        along the actions is a constant (Silver et al. 2014, eq. 9).
        """
        action, log_prob = self.policies(state).sample_with_log_prob(noise)
        given, seen = action.detach().requires_grad_(), state.detach()
        least = self.least(self.critics, seen, given)
        (slope,) = torch.autograd.grad(least.sum(), given)
        gain = (slope * action).sum(-1) - self.temperature * log_prob
        loss = -(weight * gain.mean(-1)).sum()
        excess = weight.unsqueeze(-1) * (log_prob.detach() + self.target_entropy)
        if self.config.learn_temperature:
            loss = loss - (self.log_temperature * excess.flatten(0, -2).sum(0)).sum()
        return loss, -(weight * log_prob.detach()[..., -1]).sum()

    @staticmethod
    def least(
        critics: nn.ModuleList, state: Float[Tensor, "*B S"], action: Float[Tensor, "*B G A"]
    ) -> Float[Tensor, "*B G"]:
        """The smaller of both critics' values of each discount's action, scaled."""
        found = []
        for critic in critics:
            assert isinstance(critic, DiscountedCritic)
            found.append(critic.of_each(state, action))
        return torch.stack(found).amin(0)

    def follow(self) -> None:
        """Move the target critics towards the critics."""
        follow(self.targets, self.critics, self.config.polyak)
