"""What an agent has learned of one task, as a policy by itself: a module, and a file of torch's."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import to_json, write
from meta_rl.core.protocols import MetaAgent
from meta_rl.core.seeding import GivenNoise
from meta_rl.core.spaces import to_plain
from meta_rl.core.types import Context, EnvSpec, TimeStep


class ActingPolicy(nn.Module):
    """Acts in B worlds of one task as an agent with what it knows of that task does.

    What acting moves of the context is the policy's `state`, one row a world; the rest is fixed.

    Args:
        context: What the agent knows of the task, for M = N = 1.
        memory: The last action and reward of adaptation, (1, 1, A) and (1, 1).
        freeze_memory: Return the state as it was given: nothing is learned while acting.
    """

    def __init__(
        self,
        agent: MetaAgent,
        context: Context,
        memory: tuple[Tensor, Tensor],
        spec: EnvSpec,
        freeze_memory: bool,
    ) -> None:
        super().__init__()
        self.agent = agent
        self.spec = spec
        self.freeze_memory = freeze_memory
        self._low, self._high = (torch.tensor(bound) for bound in spec.action_bounds)
        self._leaves, self._structure = pytree.tree_flatten(context)
        self._moving = self._find_moving(context)
        for leaf in self._moving:
            if self._leaves[leaf].shape[:2] != (1, 1):
                raise UserError(
                    f"{type(agent).__name__} moves a part of its context that does not have the "
                    f"axes (M, N) in front, so it cannot act by itself: "
                    f"shape {tuple(self._leaves[leaf].shape)}"
                )
        self.initial_action, self.initial_reward = memory[0].view(-1), memory[1].view(())
        self.initial_state = self._state(context).view(-1) if self._moving else torch.zeros(0)

    @property
    def has_memory(self) -> bool:
        """Whether acting moves what the policy knows."""
        return bool(self._moving)

    def forward(
        self,
        obs: Float[Tensor, "B O"],
        noise: Float[Tensor, "B A"],
        prev_action: Float[Tensor, "B A"],
        prev_reward: Float[Tensor, "B"],
        first: Bool[Tensor, "B"],
        state: Float[Tensor, "B H"],
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A"], Float[Tensor, "B H"]]:
        """Return the action within its bounds, the action as drawn, and the moved state.

        Args:
            noise: Standard normal numbers for a sampled action; zeros for the most likely one.
            prev_action: The last action as drawn, before it was clipped to its bounds.
            first: Whether an episode begins.
        """
        timestep = TimeStep(
            obs=obs.unsqueeze(0),
            prev_action=prev_action.unsqueeze(0),
            prev_reward=prev_reward.unsqueeze(0),
            first=first.unsqueeze(0),
            valid=torch.ones_like(first).unsqueeze(0),
        )
        given = GivenNoise(noise.unsqueeze(0))
        drawn, _, context = self.agent.act(self._context(state), timestep, given)
        drawn = drawn.squeeze(0)
        learns = self.has_memory and not self.freeze_memory
        moved = self._state(context) if learns else state
        return drawn.clamp(self._low, self._high), drawn, moved

    def _find_moving(self, context: Context) -> list[int]:
        """Return which tensors of the context acting replaces by others or writes into."""
        timestep = TimeStep(
            obs=torch.zeros(1, 1, self.spec.observation_size),
            prev_action=torch.zeros(1, 1, self.spec.action_size),
            prev_reward=torch.zeros(1, 1),
            first=torch.ones(1, 1, dtype=torch.bool),
            valid=torch.ones(1, 1, dtype=torch.bool),
        )
        given = pytree.tree_map(torch.clone, context)
        with torch.no_grad():
            moved = pytree.tree_leaves(self.agent.act(given, timestep, None)[2])
        trios = zip(self._leaves, pytree.tree_leaves(given), moved, strict=True)
        return [
            leaf
            for leaf, (before, same, after) in enumerate(trios)
            if after is not same or not torch.equal(after, before)
        ]

    def _state(self, context: Context) -> Float[Tensor, "B H"]:
        leaves = pytree.tree_leaves(context)
        moving = [leaves[leaf].squeeze(0) for leaf in self._moving]
        parts = [part.reshape(part.shape[0], -1).float() for part in moving]
        return torch.cat(parts, dim=1)

    def _context(self, state: Float[Tensor, "B H"]) -> Context:
        leaves = list(self._leaves)
        start = 0
        for leaf in self._moving:
            like = leaves[leaf]
            part = state[:, start : start + like.numel()]
            # A copy, since acting may write into it, and the state is the caller's.
            leaves[leaf] = part.reshape(1, -1, *like.shape[2:]).to(like.dtype, copy=True)
            start += like.numel()
        return pytree.tree_unflatten(leaves, self._structure)


class Reactive(nn.Module):
    """A policy without a memory, which looks at nothing but the observation."""

    def __init__(self, policy: ActingPolicy) -> None:
        super().__init__()
        self._policy = policy

    def forward(
        self, obs: Float[Tensor, "B O"], noise: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B A"]:
        """Return the action within its bounds."""
        worlds = obs.shape[0]  # `len` would make the program's batch a constant
        action: Tensor
        action, _, _ = self._policy(
            obs,
            noise,
            torch.zeros_like(noise),
            torch.zeros(worlds),
            torch.ones(worlds, dtype=torch.bool),
            torch.zeros(worlds, 0),
        )
        return action


INPUTS = ("obs", "noise", "prev_action", "prev_reward", "first", "state")
OUTPUTS = ("action", "prev_action", "state")


def export(policy: ActingPolicy, metadata: Mapping[str, Any], path: Path) -> None:
    """Write a policy as a program that `torch.export.load` runs, with nothing but torch.

    A policy without a memory is `action = program(obs, noise)`, one with a memory
    `action, prev_action, state = program(obs, noise, prev_action, prev_reward, first, state)`;
    arguments are those of `ActingPolicy.forward`. The file's `metadata.json` says which, and
    holds the metadata given here; a bound that is null is none.
    """
    worlds = 2  # a batch of 1 would be taken for a constant
    spec = policy.spec
    obs = torch.zeros(worlds, spec.observation_size)
    noise = torch.zeros(worlds, spec.action_size)
    arguments: tuple[Tensor, ...] = (obs, noise)
    if policy.has_memory:
        # Each a tensor of its own: export takes one that is given twice for one input.
        prev_action, prev_reward = torch.zeros_like(noise), torch.zeros(worlds)
        first = torch.ones(worlds, dtype=torch.bool)
        state = policy.initial_state.repeat(worlds, 1)
        arguments = (obs, noise, prev_action, prev_reward, first, state)
    module = policy if policy.has_memory else Reactive(policy)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(
            module, arguments, dynamic_shapes=tuple({0: batch} for _ in arguments)
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    about = {
        "inputs": INPUTS[: len(arguments)],
        "outputs": OUTPUTS if policy.has_memory else OUTPUTS[:1],
        "observation_size": spec.observation_size,
        "observation_space": to_plain(spec.observation_space),
        "action_space": to_plain(spec.action_space),
        "action_low": spec.action_bounds[0],
        "action_high": spec.action_bounds[1],
        "state_size": len(policy.initial_state),
        "initial": {
            "prev_action": policy.initial_action.tolist(),
            "prev_reward": policy.initial_reward.item(),
            "state": policy.initial_state.tolist(),
        },
        "memory_frozen": policy.freeze_memory,
        **metadata,
    }
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": to_json(about, indent=2)})
    write(content.getvalue(), path, "the policy")
