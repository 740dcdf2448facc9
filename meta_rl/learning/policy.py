"""Policies whose parameters are data: one set for all tasks, or one for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from meta_rl.core.checks import check_above_zero, check_layers
from meta_rl.core.distributions import Categorical, Distribution, Gaussian, Product
from meta_rl.core.errors import UserError
from meta_rl.core.spaces import choices
from meta_rl.core.types import EnvSpec, Params
from meta_rl.learning.mlp import ACTIVATIONS, Activation, Passes, layer_names


class MLPPolicy(nn.Module):
    """An MLP for a Gaussian's mean, with a deviation independent of the state, or for logits.

    The module is the definition and the source of initial values. Agents keep parameters as data
    and call `batched`, which gives each task its own.

    Args:
        choices: Number of options of each discrete choice; none for a Gaussian.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        activation: str,
        initial_std: float,
        min_std: float,
        choices: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        sizes = [observation_size, *hidden_sizes, action_size]
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)
        )
        if not choices:
            self.log_std = nn.Parameter(torch.full((action_size,), log(initial_std)))
        self.observation_size = observation_size
        self.choices = choices
        self.activation = ACTIVATIONS[activation]
        self.min_log_std = log(min_std)

    @property
    def head(self) -> tuple[str, ...]:
        """Prefixes of the names of the parameters after the last hidden layer."""
        return f"layers.{len(self.layers) - 1}.", "log_std"

    @property
    def parameter_names(self) -> list[str]:
        """Names of the parameters: those of the layers, in their order, and log_std."""
        return layer_names(len(self.layers)) + ([] if self.choices else ["log_std"])

    def initial_parameters(self, generator: torch.Generator, device: torch.device) -> Params:
        """Draw Xavier-uniform weights and zero biases, and return all parameters as data."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        return {name: value.detach().to(device) for name, value in self.named_parameters()}

    def forward(self, obs: Float[Tensor, "*B O"]) -> Distribution:
        """Return the policy under the module's own parameters."""
        for layer in self.layers[:-1]:
            obs = self.activation.value(layer(obs))
        mean = self.layers[-1](obs)
        if self.choices:
            return choice_of(mean, self.choices)
        log_std = self.log_std.clamp(min=self.min_log_std)
        return Gaussian(mean, log_std.expand(*[1] * (mean.dim() - 1), -1))

    def batched(self, params: Params, obs: Float[Tensor, "M B O"]) -> Distribution:
        """Return each task's policy under its own parameters.

        Equal to `vmap(functional_call)` and three times cheaper when acting.
        """
        depth = len(self.layers)
        for i in range(depth):
            weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
            obs = torch.baddbmm(bias.unsqueeze(1), obs, weight.mT)
            if i < depth - 1:
                obs = self.activation.value(obs)
        return self.acting(obs, params.get("log_std"))

    def acting(
        self, output: Float[Tensor, "M B A"], log_std: Float[Tensor, "M A"] | None = None
    ) -> Distribution:
        """Return each task's policy, given its network's output."""
        if log_std is None:
            return choice_of(output, self.choices)
        return Gaussian(output, log_std.clamp(min=self.min_log_std).unsqueeze(1))

    @torch.no_grad()
    def keep_floor(self, params: Params) -> None:
        """Raise σ to its floor, in place, where a step has led below it.

        Below the floor the policy does not depend on σ, so its gradient would stay 0.
        """
        if not self.choices:
            params["log_std"].clamp_(min=self.min_log_std)

    def in_pieces(self, params: Params, obs: Float[Tensor, "M B O"]) -> Distribution:
        """Return what `batched` does, faster on whole rollouts; differentiable once."""
        values = [params[name] for name in layer_names(len(self.layers))]
        through: Any = _Output.apply  # untyped in torch
        return self.acting(through(self.activation, obs, *values), params.get("log_std"))


@dataclass(frozen=True)
class MLPPolicyConfig:
    """Settings of an `MLPPolicy`."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Units of each hidden layer of the policy, each at least 1."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of the policy's hidden layers."""
    initial_std: float = 1.0
    """Initial standard deviation of continuous actions (σ), in the actions' unit, at least min_std.
    One value is learned for each dimension."""
    min_std: float = 1e-6
    """Smallest standard deviation of continuous actions, in the actions' unit, above 0."""

    def __post_init__(self) -> None:
        check_layers(self, "hidden_sizes")
        check_above_zero(self, "initial_std", "min_std")
        if self.initial_std < self.min_std:
            raise UserError(
                f"agent.initial_std must be at least min_std, which is {self.min_std}, got "
                f"{self.initial_std}: below it nothing is learned of it"
            )

    def policy(self, spec: EnvSpec, beside: int = 0) -> MLPPolicy:
        """Make the policy for a family's observations and actions.

        Args:
            beside: Inputs besides the observation.
        """
        return MLPPolicy(
            spec.observation_size + beside,
            spec.action_size,
            self.hidden_sizes,
            self.activation,
            self.initial_std,
            self.min_std,
            choices(spec.action_space),
        )


class _Output(torch.autograd.Function):
    """The outputs of the networks of many tasks, differentiable in their layers."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, obs: Tensor, *row: Tensor) -> Tensor:
        layers = list(zip(row[::2], row[1::2], strict=True))
        passes = ctx.passes = Passes(layers, activation, obs, kept=any(ctx.needs_input_grad))
        return passes.output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.passes.pull(slope).values()


def choice_of(logits: Float[Tensor, "*B A"], choices: Sequence[int]) -> Categorical | Product:
    """Return the distribution of a discrete action, given the logits of all its choices."""
    parts = tuple(Categorical(part) for part in torch.split(logits, list(choices), dim=-1))
    return parts[0] if len(parts) == 1 else Product(parts)


def for_each_task(params: Params, tasks: int) -> Params:
    """Give each of M tasks its own view of shared parameters."""
    return {name: value.expand(tasks, *value.shape) for name, value in params.items()}


def by_task(x: Shaped[Tensor, "T M N *rest"]) -> Shaped[Tensor, "M TN *rest"]:
    """Lay out a rollout's steps task by task, as `MLPPolicy.batched` takes them."""
    return x.movedim(1, 0).flatten(1, 2)


def from_by_task(x: Shaped[Tensor, "M TN *rest"], copies: int) -> Shaped[Tensor, "T M N *rest"]:
    """Undo `by_task`."""
    return x.reshape(len(x), -1, copies, *x.shape[2:]).movedim(0, 1)
