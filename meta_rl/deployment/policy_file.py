"""A policy that has adapted to one task: as a file, and acting in any Gymnasium loop."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

import meta_rl
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent
from meta_rl.core.spaces import action_of, flat_observation, from_plain, to_plain
from meta_rl.core.types import Context, EnvSpec, Score
from meta_rl.deployment import program as acting
from meta_rl.deployment.program import ActingPolicy
from meta_rl.experiment import catalog
from meta_rl.experiment.config import agent_fields, from_dict, plain
from meta_rl.experiment.versions import translated
from meta_rl.rollouts.gymnasium.checks import check_observation
from meta_rl.runs import checkpoint
from meta_rl.runs.trained import restore

State: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Memory (B, H), last action as drawn (B, A) and last reward (B,) of B worlds."""


@dataclass(frozen=True)
class AdaptedPolicy:
    """Acts as the adapted agent does, in one world or several of its task."""

    policy: ActingPolicy
    metadata: Mapping[str, Any]
    """Task, run, protocol, episodes adapted from, versions."""

    @torch.no_grad()
    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = True,
        *,
        reward: float | NDArray[Any] | None = None,
        remembering: bool = False,
    ) -> tuple[NDArray[Any] | np.generic, State | None]:
        """Return the action, within its bounds, and the state for the next call.

        As in Stable-Baselines3. Policies without a memory have no state.

        Args:
            observation: As the environment gives it, or (O,) flattened, of one world; or (B, O) of
                several.
            state: What the last call returned; None begins an episode, knowing what adaptation
                taught and nothing later.
            episode_start: (B,), where to begin an episode, by default as with no state.
            deterministic: Return the most likely action, or one drawn by torch's own generator.
            reward: What the last action earned, a number or (B,); only policies with a memory
                look at it. None repeats the last reward that was told.
            remembering: Let the memory go on into episodes that begin, as within a trial.

        Raises:
            UserError: The observation is not one of the policy's, or the state is of other worlds.
        """
        given = self._rows(observation)
        obs = torch.from_numpy(given.reshape(-1, given.shape[-1]))
        fresh = self._fresh_state(len(obs))
        first = torch.full((len(obs),), state is None)
        memory, prev_action, prev_reward = fresh if state is None else map(torch.from_numpy, state)
        if len(memory) != len(obs):
            raise UserError(
                f"the state is of {len(memory)} worlds, and the observation of {len(obs)}; give "
                f"as many observations in every call, or state=None"
            )
        if reward is not None and state is not None:
            told = torch.as_tensor(np.asarray(reward, dtype=np.float32))
            prev_reward = told.expand(len(obs))
        if episode_start is not None and state is not None:
            first = torch.from_numpy(np.asarray(episode_start, dtype=bool)).expand(len(obs))
            chosen = torch.zeros_like(first) if remembering else first
            memory = torch.where(chosen.unsqueeze(1), fresh[0], memory)
            prev_action = torch.where(chosen.unsqueeze(1), fresh[1], prev_action)
            prev_reward = torch.where(chosen, fresh[2], prev_reward)
        shape = (len(obs), self.policy.spec.action_size)
        noise = torch.zeros(shape) if deterministic else torch.randn(shape)
        action, drawn, moved = self.policy(obs, noise, prev_action, prev_reward, first, memory)
        action = self._in_space(action.numpy()).reshape((*given.shape[:-1], *self._action_shape))
        action = action[()]  # a single choice as a number, not as an array without axes
        if not self.policy.has_memory:
            return action, None
        return action, (moved.numpy(), drawn.numpy(), prev_reward.numpy())

    def _rows(self, observation: Any) -> NDArray[np.float32]:
        """Return one observation as a row of numbers; or several, which are rows already."""
        space, size = self.policy.spec.observation_space, self.policy.spec.observation_size
        got = type(observation).__name__
        if not isinstance(observation, dict | tuple):
            given = np.asarray(observation, dtype=np.float32)
            if given.ndim in (1, 2) and given.shape[-1] == size:
                return given
            got = f"an array of shape {given.shape}"
        try:
            check_observation(space, observation, "who calls", "the policy")
        except UserError as error:
            own = "" if isinstance(space, Box) and len(space.shape) == 1 else f", or one of {space}"
            raise UserError(f"the policy observes {size} numbers{own}, got {got}") from error
        return np.asarray(flat_observation(space, observation), dtype=np.float32)

    @property
    def _action_shape(self) -> tuple[int, ...]:
        space = self.policy.spec.action_space
        return (-1,) if isinstance(space, Box) else space.shape or ()

    def _in_space(self, flat: NDArray[np.float32]) -> NDArray[Any]:
        """Return flat actions as the action space has them; a Box keeps them flat."""
        space = self.policy.spec.action_space
        if isinstance(space, Box):
            return flat
        return np.array([action_of(space, row) for row in flat])

    def _fresh_state(self, worlds: int) -> tuple[Tensor, Tensor, Tensor]:
        policy = self.policy
        return (
            policy.initial_state.expand(worlds, -1),
            policy.initial_action.expand(worlds, -1),
            policy.initial_reward.expand(worlds),
        )


def save(
    path: Path,
    agent: MetaAgent,
    agent_name: str,
    agent_config: Any,
    context: Context,
    memory: tuple[Tensor, Tensor],
    spec: EnvSpec,
    freeze_memory: bool,
    metadata: Mapping[str, Any],
) -> None:
    """Write an adapted policy for `load`, and beside it as a program of torch's."""
    versions = {
        "meta_rl": meta_rl.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    state = {
        "agent_name": agent_name,
        "agent_config": plain(asdict(agent_config)),
        "agent": agent.state_dict(),
        "context": context,
        "memory": memory,
        "spec": _plain_spec(spec),
        "freeze_memory": freeze_memory,
        "metadata": {**metadata, "versions": versions},
    }
    on_host = pytree.tree_map(
        lambda x: x.detach().cpu().clone() if isinstance(x, torch.Tensor) else x, state
    )
    checkpoint.save(on_host, path)
    adapted = load(path)
    acting.export(adapted.policy, adapted.metadata, path.with_suffix(".pt2"))


def load(path: str | Path, plugin: str | None = None) -> AdaptedPolicy:
    """Load an adapted policy written by `meta-rl adapt`, on the CPU.

    Args:
        plugin: The module of an agent of your own that may be imported for it.
    """
    if plugin is not None:
        catalog.allow_plugin(plugin)
    path = Path(path)
    if path.suffix == ".pt2":
        raise UserError(f"{path} is for torch.export.load; load {path.with_suffix('.pt')} here")
    if not path.is_file():
        raise UserError(f"no policy {path}; `meta-rl adapt RUN` writes one, and tells where")
    state = checkpoint.load(path)
    if "context" not in state:
        raise UserError(f"{path} is a training checkpoint; `meta-rl adapt RUN` makes policies")
    if "metadata" not in state:
        raise UserError(f"{path} was written by an older meta-rl; run `meta-rl adapt` again")
    module = catalog.load("agents", state["agent_name"])
    about = {"name": state["agent_name"], **state["agent_config"]}
    read = translated({"agent": about}, str(path), agent_fields, quiet=True)["agent"]
    del read["name"]
    config = from_dict(module.Config, read, "agent", str(path))
    spec = _spec(state["spec"])
    agent: MetaAgent = module.build(config, spec, torch.device("cpu"), 0)
    restore(agent, state["agent"], state["agent_name"])
    policy = ActingPolicy(agent, state["context"], state["memory"], spec, state["freeze_memory"])
    return AdaptedPolicy(policy, state["metadata"])


def _plain_spec(spec: EnvSpec) -> dict[str, Any]:
    """Return a spec as plain data."""
    return asdict(spec) | {
        "observation_space": to_plain(spec.observation_space),
        "action_space": to_plain(spec.action_space),
    }


def _spec(data: Mapping[str, Any]) -> EnvSpec:
    """Return the spec of a file; older files hold sizes and bounds in place of spaces."""
    if "action_space" not in data:
        return EnvSpec.box(
            data["observation_size"],
            data["action_low"],
            data["action_high"],
            data["horizon"],
            data["family"],
        )
    spaces = {name: from_plain(data[name]) for name in ("observation_space", "action_space")}
    scores = tuple(Score(**score) for score in data["scores"])
    return EnvSpec(**{**data, **spaces, "metrics": tuple(data["metrics"]), "scores": scores})
