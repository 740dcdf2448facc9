"""Models of dynamics and rewards that adapt to the latest steps: by gradients, or by a memory.

Both remember the steps of acting (`remember`), turn them into knowledge of a world (`knowledge`),
and predict with that. For training they make the same of recorded trials (`knowledge_at`).
Knowledge is a pytree whose tensors have a leading axis of worlds.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meta_rl.core.checks import check_above_zero, check_at_least, check_layers
from meta_rl.core.types import EnvSpec, TimeStep
from meta_rl.learning.dynamics import AdaptiveMLP, Steps, TransitionScale
from meta_rl.learning.memory import MemoryConfig, build_memory, by_world, in_a_row
from meta_rl.learning.trials import History, memory_inputs
from meta_rl.learning.windows import Moments, Window

Remembered: TypeAlias = Any
"""The memory of M × N worlds while they act: a pytree of tensors with leading axes (M, N)."""


@dataclass(frozen=True)
class OnlineModelConfig(MemoryConfig):
    """A model of dynamics and rewards, and how it adapts. Only recurrence has a memory."""

    adaptation: Literal["gradient", "recurrence"] = "gradient"
    """How the model adapts: by gradient steps on the latest transitions (`gradient`, GrBAL), or by
    a memory of the whole trial (`recurrence`, ReBAL)."""
    past_steps: int = 16
    """Latest transitions that gradient adaptation learns from (M), at least 1."""
    adaptation_steps: int = 1
    """Gradient steps on these transitions, at least 1."""
    inner_lr: float = 0.01
    """Initial step size of gradient adaptation (ψ), above 0. Each layer learns two: one for its
    weights and one for its biases."""
    reward_weight: float = 1.0
    """Weight of the reward's squared error, above 0, relative to the mean squared error of the
    observation's change. Both are scaled to variance 1."""
    hidden_sizes: tuple[int, ...] = (512, 512)
    """Units of each hidden layer of the model, each at least 1."""
    activation: Literal["tanh", "relu"] = "relu"
    """Nonlinearity of the hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "past_steps", "adaptation_steps")
        check_above_zero(self, "inner_lr", "reward_weight")
        check_layers(self, "hidden_sizes")


class OnlineModel(nn.Module):
    """A model that adapts while it is used."""

    share: Tensor

    def __init__(self, config: OnlineModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        size = spec.observation_size
        share = torch.tensor([1 / size] * size + [config.reward_weight])
        self.register_buffer("share", share, persistent=False)

    def nothing(self, worlds: torch.Size) -> Remembered:
        """Return the memory of worlds that have seen nothing."""
        raise NotImplementedError(f"{type(self).__name__} must say what it knows at first")

    def remember(self, state: Remembered, timestep: TimeStep, scale: TransitionScale) -> Remembered:
        """Return the memory with one more step; padding is not remembered."""
        raise NotImplementedError(f"{type(self).__name__} must say what it remembers")

    def knowledge(self, state: Remembered, scale: TransitionScale) -> Any:
        """Return the knowledge of B = M × N worlds."""
        raise NotImplementedError(f"{type(self).__name__} must say what it knows")

    def predict(self, x: Float[Tensor, "B R I"], knowledge: Any) -> Float[Tensor, "B R O1"]:
        """Predict R scaled transitions in each of B worlds."""
        raise NotImplementedError(f"{type(self).__name__} must say what it predicts")

    def knowledge_at(self, history: History, moments: Moments, scale: TransitionScale) -> Any:
        """Return the knowledge at moments of recorded trials."""
        raise NotImplementedError(f"{type(self).__name__} must say what it knew")

    def ignorance_at(self, history: History, moments: Moments, scale: TransitionScale) -> Any:
        """Return the knowledge at these moments without adaptation."""
        raise NotImplementedError(f"{type(self).__name__} must say what it knew unadapted")

    def error(
        self, output: Float[Tensor, "B R O1"], target: Float[Tensor, "B R O1"]
    ) -> Float[Tensor, "B R"]:
        """Return the weighted squared error of predictions.

        Up to constants, it is the negative log-likelihood of a Gaussian of fixed variance.
        """
        return (self.share * (output - target) ** 2).sum(-1)


class GradientModel(OnlineModel):
    """GrBAL: θ' = θ - ψ ∇L(θ; last M transitions) (Nagabandi et al. 2019, eq. 5 and Alg. 2).

    A world remembers its last observation, its last transitions (`past`, unscaled, of shape
    (M, N, past_steps, 2O + A + 1)), and which of them exist (`known`). θ' is computed from them
    anew at each step.
    """

    def __init__(self, config: OnlineModelConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        obs, action = spec.observation_size, spec.action_size
        self.config = config
        self.parts = (obs, action, 1, obs)
        self.network = AdaptiveMLP(
            obs + action, config.hidden_sizes, obs + 1, config.activation, config.inner_lr
        )

    def nothing(self, worlds: torch.Size) -> dict[str, Tensor]:
        """Return a memory without transitions and without an observation."""
        steps, like = self.config.past_steps, self.share
        return {
            "obs": like.new_zeros(*worlds, self.parts[0]),
            "past": like.new_zeros(*worlds, steps, sum(self.parts)),
            "known": torch.zeros(*worlds, steps, dtype=torch.bool, device=like.device),
        }

    def remember(
        self, state: dict[str, Tensor], timestep: TimeStep, scale: TransitionScale
    ) -> dict[str, Tensor]:
        """Append the transition that ends here; the oldest is forgotten.

        The last transition of an episode is left out, because its next observation is not shown.
        """
        row = torch.cat(
            [
                state["obs"],
                timestep.prev_action,
                timestep.prev_reward.unsqueeze(-1),
                timestep.obs,
            ],
            dim=-1,
        )
        past, known = state["past"], state["known"]
        appended = torch.cat([past[:, :, 1:], row.unsqueeze(2)], dim=2)
        also_known = torch.cat([known[:, :, 1:], torch.ones_like(known[:, :, :1])], dim=2)
        ends = (timestep.valid & ~timestep.first).unsqueeze(-1)
        return {
            "obs": torch.where(timestep.valid.unsqueeze(-1), timestep.obs, state["obs"]),
            "past": torch.where(ends.unsqueeze(-1), appended, past),
            "known": torch.where(ends, also_known, known),
        }

    def knowledge(self, state: dict[str, Tensor], scale: TransitionScale) -> Steps:
        """Return the gradient steps on the remembered transitions."""
        past = state["past"].flatten(0, 1)
        obs, action, reward, next_obs = torch.split(past, list(self.parts), dim=-1)
        known = state["known"].flatten(0, 1)
        return self.adapted(Window(obs, action, reward.squeeze(-1), next_obs, known), scale)

    def adapted(self, window: Window, scale: TransitionScale) -> Steps:
        """Return gradient steps on the mean error of each world's transitions."""
        x = scale.inputs(window.obs, scale.unit(window.action))
        target = scale.targets(window.obs, window.reward, window.next_obs)
        counted = window.counted.to(x.dtype)
        mean = counted / counted.sum(1, keepdim=True).clamp(min=1)
        weight = mean.unsqueeze(-1) * self.share
        steps = self.network.adapted(x, target, weight)
        for _ in range(self.config.adaptation_steps - 1):
            steps = self.network.adapted(x, target, weight, steps)
        return steps

    def predict(
        self, x: Float[Tensor, "B R I"], knowledge: Steps | None
    ) -> Float[Tensor, "B R O1"]:
        """Predict with each world's θ'; without one, with θ."""
        output: Tensor = self.network(x, knowledge)
        return output

    def knowledge_at(self, history: History, moments: Moments, scale: TransitionScale) -> Steps:
        """Adapt to the M transitions before each moment."""
        return self.adapted(moments.past(history, self.config.past_steps), scale)

    def ignorance_at(self, history: History, moments: Moments, scale: TransitionScale) -> None:
        """Return nothing: θ itself predicts."""


class RecurrentModel(OnlineModel):
    """ReBAL: a memory of the trial is an input of the model (Nagabandi et al. 2019, §4).

    The memory stays fixed while a plan is tried out, as θ' does with gradients.
    """

    def __init__(self, config: OnlineModelConfig, spec: EnvSpec, trial_steps: int) -> None:
        super().__init__(config, spec)
        obs, action = spec.observation_size, spec.action_size
        self.memory = build_memory(config, obs + action + 2, trial_steps + 1)
        first, *rest = (*config.hidden_sizes, obs + 1)
        activation: type[nn.Module] = {"tanh": nn.Tanh, "relu": nn.ReLU}[config.activation]
        self.of_step = nn.Linear(obs + action, first)
        self.of_memory = nn.Linear(config.memory_size, first, bias=False)
        layers: list[nn.Module] = []
        for pair in pairwise((first, *rest)):
            layers += [activation(), nn.Linear(*pair)]
        self.rest = nn.Sequential(*layers)

    def nothing(self, worlds: torch.Size) -> dict[str, Any]:
        """Return an empty memory."""
        remembered = self.share.new_zeros(*worlds, self.of_memory.in_features)
        state = by_world(self.memory.empty(worlds.numel()), worlds)
        return {"memory": state, "remembered": remembered}

    def remember(
        self, state: dict[str, Any], timestep: TimeStep, scale: TransitionScale
    ) -> dict[str, Any]:
        """Put the step into memory."""
        inputs = self.inputs(timestep, scale).flatten(0, 1)
        valid, worlds = timestep.valid, timestep.valid.shape
        found, memory = self.memory.step(inputs, in_a_row(state["memory"]), valid.flatten())
        remembered = by_world(found, worlds)
        kept = torch.where(valid.unsqueeze(-1), remembered, state["remembered"])
        return {"memory": by_world(memory, worlds), "remembered": kept}

    def inputs(self, timestep: TimeStep, scale: TransitionScale) -> Float[Tensor, "*T M N I"]:
        """Return the memory's inputs of a step."""
        return memory_inputs(timestep, scale.obs, scale.reward)

    def knowledge(self, state: dict[str, Any], scale: TransitionScale) -> Float[Tensor, "B H"]:
        """Return the memory's output for each world."""
        remembered: Tensor = state["remembered"]
        return remembered.flatten(0, 1)

    def predict(
        self, x: Float[Tensor, "B R I"], knowledge: Float[Tensor, "B H"]
    ) -> Float[Tensor, "B R O1"]:
        """Predict with the memory's output; the first layer takes it apart from the step."""
        output: Tensor = self.rest(self.of_step(x) + self.of_memory(knowledge).unsqueeze(1))
        return output

    def remembered(self, history: History, scale: TransitionScale) -> Float[Tensor, "T1 B H"]:
        """Return the memory's outputs before each step of trials, and after the last."""
        inputs = self.inputs(history.seen(), scale).flatten(1, 2)
        return self.memory.sequence(inputs, self.memory.empty(inputs.shape[1]))[0]

    def knowledge_at(
        self, history: History, moments: Moments, scale: TransitionScale
    ) -> Float[Tensor, "W H"]:
        """Return the memory's outputs at moments of trials, from their beginning on."""
        return self.remembered(history, scale)[moments.step, moments.trial]

    def ignorance_at(
        self, history: History, moments: Moments, scale: TransitionScale
    ) -> Float[Tensor, "W H"]:
        """Return the memory's outputs for the trials' first observations alone."""
        return self.remembered(history, scale)[0, moments.trial]


def build_online_model(config: OnlineModelConfig, spec: EnvSpec, trial_steps: int) -> OnlineModel:
    """Make the model of these settings."""
    if config.adaptation == "gradient":
        return GradientModel(config, spec)
    return RecurrentModel(config, spec, trial_steps)
