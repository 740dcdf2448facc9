"""The inputs and targets of a dynamics model, and a network that many worlds adapt at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meta_rl.core.errors import UserError
from meta_rl.core.spaces import bounded
from meta_rl.core.types import EnvSpec
from meta_rl.learning.mlp import ACTIVATIONS
from meta_rl.learning.normalization import RunningMoments


@dataclass(frozen=True)
class TransitionScale:
    """Scales transitions by their running moments, so that every number counts alike.

    A model predicts the change of the observation and the reward, O + 1 numbers of mean 0 and
    variance 1 (Nagabandi et al. 2018, §IV-A). Actions are scaled to [-1, 1] by their bounds.

    Args:
        centre: Middle of each action's bounds, (A,).
        half_range: Half the distance between them, (A,).
    """

    obs: RunningMoments
    change: RunningMoments
    reward: RunningMoments
    centre: Float[Tensor, "A"]
    half_range: Float[Tensor, "A"]

    @classmethod
    def empty(cls, spec: EnvSpec, device: torch.device) -> "TransitionScale":
        """Return the scale before any transition.

        Raises:
            UserError: Actions are choices, or have no bounds.
        """
        low, high = (torch.tensor(bound, device=device) for bound in spec.action_bounds)
        if not bounded(spec.action_space, *spec.action_bounds):
            raise UserError(
                f"planning needs continuous actions within finite bounds that lie apart, but "
                f"{spec.family or 'the environment'} takes {spec.action_space}; use an agent such "
                f"as rl2_ppo, or bound the actions"
            )
        size = (spec.observation_size,)
        return cls(
            RunningMoments.empty(size, device),
            RunningMoments.empty(size, device),
            RunningMoments.empty((), device),
            (low + high) / 2,
            (high - low) / 2,
        )

    def merge(
        self,
        obs: Float[Tensor, "*B O"],
        reward: Float[Tensor, "*B"],
        next_obs: Float[Tensor, "*B O"],
        valid: Bool[Tensor, "*B"],
    ) -> "TransitionScale":
        """Return the scale with more transitions seen."""
        return TransitionScale(
            self.obs.merge(obs, valid),
            self.change.merge(next_obs - obs, valid),
            self.reward.merge(reward, valid),
            self.centre,
            self.half_range,
        )

    def unit(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """Scale actions to [-1, 1], clipped to their bounds as the simulator clips them."""
        return ((action - self.centre) / self.half_range).clamp(-1, 1)

    def action(self, unit: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """Undo `unit`."""
        return self.centre + self.half_range * unit

    def inputs(
        self, obs: Float[Tensor, "*B O"], unit_action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B OA"]:
        """Return a model's inputs for a transition."""
        return torch.cat([self.obs.normalize(obs), unit_action], dim=-1)

    def targets(
        self,
        obs: Float[Tensor, "*B O"],
        reward: Float[Tensor, "*B"],
        next_obs: Float[Tensor, "*B O"],
    ) -> Float[Tensor, "*B O1"]:
        """Return the targets of a model for a transition."""
        change = self.change.normalize(next_obs - obs)
        return torch.cat([change, self.reward.normalize(reward).unsqueeze(-1)], dim=-1)

    def outcome(
        self, obs: Float[Tensor, "*B O"], output: Float[Tensor, "*B O1"]
    ) -> tuple[Float[Tensor, "*B O"], Float[Tensor, "*B"]]:
        """Return the next observation and the reward of a prediction."""
        change, reward = output[..., :-1], output[..., -1]
        next_obs = obs + self.change.mean + self.change.std * change
        return next_obs, self.reward.mean + self.reward.std * reward

    def state_dict(self) -> dict[str, Any]:
        """Return the moments."""
        return {name: dict(vars(getattr(self, name))) for name in MOMENTS}

    def loaded(self, state: Mapping[str, Any]) -> "TransitionScale":
        """Return the scale with the moments that `state_dict` returned."""
        device = self.centre.device
        moments = {name: RunningMoments.loaded(state[name], device) for name in MOMENTS}
        return TransitionScale(**moments, centre=self.centre, half_range=self.half_range)


MOMENTS = ("obs", "change", "reward")

Steps: TypeAlias = list[tuple[Tensor, Tensor]]
"""Gradient steps of B worlds: the inputs of each layer (B, S, in), and the loss's slope in its
outputs (B, S, out)."""


class AdaptiveMLP(nn.Module):
    """An MLP that B worlds share, each after gradient steps of its own on a few rows.

    The step of a world on S rows moves a layer's weights by an outer product for each row,

        W' = W - α Σ_s δ_s x_sᵀ,    b' = b - β Σ_s δ_s,

    where x_s is the layer's input and δ_s the loss's slope in its output. So a world's own
    parameters are never made. They are kept as (x, δ), S · (in + out) numbers. A row goes through
    them as W x - Σ_s (α x·x_s + β) δ_s. The first product is one for all worlds, and the second
    costs 2 S in place of the width. All of it is differentiable, including the inner step.

    The step sizes α and β of each layer are learned (Li et al. 2017; ψ in Nagabandi et al. 2019,
    §4).

    Args:
        inner_lr: The initial step sizes.
    """

    def __init__(
        self,
        inputs: int,
        hidden_sizes: Sequence[int],
        outputs: int,
        activation: str,
        inner_lr: float,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden_sizes, outputs]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.step_sizes = nn.Parameter(torch.full((len(self.layers), 2), inner_lr))
        self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Float[Tensor, "B R I"], steps: Steps | None = None
    ) -> Float[Tensor, "B R O"]:
        """Return the networks' outputs after the worlds' steps; without `steps`, before them."""
        return self.seen(x, steps)[-1]

    def adapted(
        self,
        x: Float[Tensor, "B S I"],
        target: Float[Tensor, "B S O"],
        weight: Float[Tensor, "B S O"],
        steps: Steps | None = None,
    ) -> Steps:
        """Return the steps and one more, on Σ weight (f(x) - target)² of each world."""
        seen = self.seen(x, steps)
        slope = 2 * weight * (seen[-1] - target)
        taken: Steps = []
        for i in reversed(range(len(self.layers))):
            taken.append((seen[i], slope))
            if i > 0:
                slope = self.activation.slope(self.pulled(i, slope, steps), seen[i])
        taken.reverse()
        if steps is None:
            return taken
        return [
            (torch.cat([before[0], new[0]], dim=1), torch.cat([before[1], new[1]], dim=1))
            for before, new in zip(steps, taken, strict=True)
        ]

    def seen(self, x: Tensor, steps: Steps | None) -> list[Tensor]:
        """Return the inputs of each layer, and then the output."""
        seen, last = [x], len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            y = layer(seen[-1])
            if steps is not None:
                before, slope = steps[i]
                of_weights, of_biases = self.step_sizes[i]
                moved = of_weights * (seen[-1] @ before.mT) + of_biases
                y = torch.baddbmm(y, moved, slope, alpha=-1)  # y - moved @ slope in one pass
            seen.append(y if i == last else self.activation.value(y))
        return seen

    def pulled(self, i: int, slope: Tensor, steps: Steps | None) -> Tensor:
        """Return δ W': the slope in a layer's inputs, from the slope δ in its outputs."""
        layer = self.layers[i]
        assert isinstance(layer, nn.Linear)
        pulled = slope @ layer.weight
        if steps is not None:
            before, taken = steps[i]
            moved = self.step_sizes[i, 0] * (slope @ taken.mT)
            pulled = torch.baddbmm(pulled, moved, before, alpha=-1)
        return pulled
