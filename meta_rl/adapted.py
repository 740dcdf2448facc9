"""A policy that has adapted to one task, as a file that acts in any Gymnasium loop."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl import catalog, checkpoint
from meta_rl.config import from_dict, plain
from meta_rl.errors import UserError
from meta_rl.protocols import MetaAgent
from meta_rl.types import Context, EnvSpec, Task, TimeStep


class AdaptedPolicy:
    """Acts in one environment as the adapted agent does.

    Args:
        context: What the agent knows of the task, for M = N = 1.
        memory: The last action and reward of adaptation, (1, 1, A) and (1, 1).
    """

    def __init__(
        self,
        agent: MetaAgent,
        context: Context,
        memory: tuple[Tensor, Tensor],
        spec: EnvSpec,
        task: str,
    ) -> None:
        self.agent = agent
        self.spec = spec
        self.task = task
        """Which task the policy was adapted to."""
        self._adapted = context
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        """Begin an episode, knowing what adaptation taught and nothing later."""
        self._context = self._adapted
        self._prev_action, self._prev_reward = self._memory
        self._first = True

    @torch.no_grad()
    def predict(
        self, observation: Float[NDArray[Any], "O"], reward: float | None = None
    ) -> Float[NDArray[np.float32], "A"]:
        """Return the policy's most likely action, within the action bounds.

        Args:
            observation: What the environment returned last.
            reward: What the last action of this episode earned; only agents with a memory look
                at it.
        """
        obs = torch.as_tensor(np.asarray(observation), dtype=torch.float32)
        if obs.shape != (self.spec.observation_size,):
            raise UserError(
                f"the policy observes {self.spec.observation_size} numbers, got an array of "
                f"shape {tuple(obs.shape)}"
            )
        if reward is not None:
            self._prev_reward = torch.full((1, 1), float(reward))
        timestep = TimeStep(
            obs=obs.view(1, 1, -1),
            prev_action=self._prev_action,
            prev_reward=self._prev_reward,
            first=torch.full((1, 1), self._first),
            valid=torch.ones(1, 1, dtype=torch.bool),
        )
        action, _, self._context = self.agent.act(self._context, timestep, None)
        self._prev_action, self._first = action, False
        clipped: NDArray[np.float32] = np.clip(
            action.view(-1).numpy(), self.spec.action_low, self.spec.action_high
        ).astype(np.float32)
        return clipped


def save_policy(
    path: Path,
    agent: MetaAgent,
    agent_config: Any,
    context: Context,
    memory: tuple[Tensor, Tensor],
    spec: EnvSpec,
    task: Task,
    protocol: Mapping[str, Any],
) -> None:
    """Write an adapted policy with all that `load_policy` needs."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; choose another --output") from error
    state = {
        "agent_name": catalog.name_of(agent_config),
        "agent_config": plain(asdict(agent_config)),
        "agent": agent.state_dict(),
        "context": context,
        "memory": memory,
        "spec": plain(asdict(spec)),
        "task": task.label,
        "protocol": dict(protocol),
    }
    on_host = pytree.tree_map(
        lambda x: x.detach().cpu().clone() if isinstance(x, torch.Tensor) else x, state
    )
    checkpoint.save(on_host, path)


def load_policy(path: str | Path, plugin: str | None = None) -> AdaptedPolicy:
    """Load an adapted policy written by `meta-rl adapt`, on the CPU.

    Args:
        plugin: The module of an agent of your own that may be imported for it.
    """
    if plugin is not None:
        catalog.allow_plugin(plugin)
    state = checkpoint.load(Path(path))
    if "context" not in state:
        raise UserError(f"{path} is a training checkpoint; `meta-rl adapt RUN` makes policies")
    module = catalog.load("agents", state["agent_name"])
    config = from_dict(module.Config, state["agent_config"], "agent", str(path))
    spec = from_dict(EnvSpec, state["spec"], "spec", str(path))
    agent: MetaAgent = module.build(config, spec, torch.device("cpu"), 0)
    agent.load_state_dict(state["agent"])
    return AdaptedPolicy(agent, state["context"], state["memory"], spec, state["task"])
