"""The common base of agents that adapt by a memory of the trial."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_rl.core.distributions import Distribution
from meta_rl.core.seeding import Noise
from meta_rl.core.types import EnvSpec, Rollout, Tasks, TimeStep
from meta_rl.learning.memory import Memory, State, by_world, in_a_row
from meta_rl.learning.normalization import RunningMoments
from meta_rl.learning.trials import memory_inputs


@runtime_checkable
class Remembers(Protocol):
    """A network with a memory, whose output at each step depends on all steps so far."""

    @property
    def memory(self) -> Memory:
        """The memory of the trial."""
        ...

    def step(
        self, inputs: Float[Tensor, "B I"], state: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B S"], State]:
        """Return the output after one step, and the memory's new state; see `Memory.step`."""
        ...


class MemoryAgent:
    """Adapts by a memory. An agent adds `remembering`, its network, and `policy_of`.

    The context is the memory's state; a GRU's has the shape (M, N, H). Every copy is a trial of its
    own. Parameters are shared by all tasks, so (M, N) is folded into one batch axis.

    Args:
        normalize_inputs: Scale observations and remembered rewards by their running moments.
    """

    copies_share_experience = False

    def __init__(self, normalize_inputs: bool, spec: EnvSpec, device: torch.device) -> None:
        self.normalize_inputs = normalize_inputs
        self.spec = spec
        self.device = device
        self.obs_moments = RunningMoments.empty((spec.observation_size,), device)
        self.reward_moments = RunningMoments.empty((), device)

    @property
    def remembering(self) -> Remembers:
        """The network with the memory of the trial."""
        raise NotImplementedError(f"{type(self).__name__} must say what remembers")

    def policy_of(self, known: Float[Tensor, "M N S"], timestep: TimeStep) -> Distribution:
        """Return the policy, given the network's output after a step."""
        raise NotImplementedError(f"{type(self).__name__} must say how it acts")

    def begin(self, tasks: Tasks, copies: int, training: bool) -> State:
        """Start with an empty memory."""
        worlds = torch.Size((len(tasks), copies))
        return by_world(self.remembering.memory.empty(worlds.numel()), worlds)

    def act(
        self, context: State, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], State]:
        """Draw actions and remember the step."""
        policy, context = self.distribution(context, timestep)
        action = policy.sample(noise)
        return action, policy.log_prob(action), context

    def distribution(self, context: State, timestep: TimeStep) -> tuple[Distribution, State]:
        """Return the policy of the step, and the new context."""
        known, context = self.remember(context, timestep)
        return self.policy_of(known, timestep), context

    def remember(self, context: State, timestep: TimeStep) -> tuple[Float[Tensor, "M N S"], State]:
        """Return the output after a step, and the new context; padding is not remembered."""
        worlds = timestep.first.shape
        inputs, valid = self.inputs(timestep).flatten(0, 1), timestep.valid.flatten()
        known, state = self.remembering.step(inputs, in_a_row(context), valid)
        return known.unflatten(0, worlds), by_world(state, worlds)

    def adapt(self, context: State, rollout: Rollout) -> State:
        """Return the context: acting has already put the rollout into memory."""
        return context

    def inputs(self, timestep: TimeStep) -> Float[Tensor, "*T M N I"]:
        """Return the inputs: observation, last action, last reward, start of an episode."""
        moments = (self.obs_moments, self.reward_moments) if self.normalize_inputs else (None, None)
        return memory_inputs(timestep, *moments)

    def see(self, rollout: Rollout) -> None:
        """Update the running moments with a rollout."""
        if self.normalize_inputs:
            self.obs_moments = self.obs_moments.merge(rollout.obs, rollout.valid)
            self.reward_moments = self.reward_moments.merge(rollout.reward, rollout.valid)

    def moments_state(self) -> dict[str, Any]:
        """Return the running moments, for a checkpoint."""
        return {
            "obs_moments": vars(self.obs_moments),
            "reward_moments": vars(self.reward_moments),
        }

    def load_moments(self, state: Mapping[str, Any]) -> None:
        """Restore what `moments_state` returned."""
        self.obs_moments = RunningMoments.loaded(state["obs_moments"], self.device)
        self.reward_moments = RunningMoments.loaded(state["reward_moments"], self.device)
