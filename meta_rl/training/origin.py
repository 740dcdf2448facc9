"""A run that begins with what another one has learned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent
from meta_rl.core.spaces import same_layout
from meta_rl.core.types import EnvSpec
from meta_rl.experiment import catalog
from meta_rl.experiment.building import build_distribution
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import Origin, RunFolder
from meta_rl.runs.trimmed import TRAINING_ONLY, widened

BESIDE_THE_POLICY = {"eta", "trace", "bonuses"}
"""What an agent learns for its updates alone; where the other one has none, it begins anew."""


def start_from(
    run: str, agent: MetaAgent, spec: EnvSpec, device: torch.device
) -> tuple[Origin, list[str]]:
    """Give an agent what a run's latest checkpoint has learned; its optimizer begins anew.

    Agents may differ: what both have is taken, such as the policy of a multi-task agent. Numbers
    that the other one does not have, such as learned step sizes, stay as they begin.

    Returns:
        Where the agent comes from, and notes on what only one of the two has.

    Raises:
        UserError: The run has other spaces, sizes of networks, or nothing that this agent has.
    """
    folder = RunFolder(catalog.run_path(run))
    theirs = folder.experiment()
    _check_spaces(run, build_distribution(theirs).spec, spec)
    state = checkpoint.load(folder.checkpoint("latest"), device)
    learned = widened(state["agent"])
    own = agent.state_dict()
    taken: set[str] = set()
    merged = _merged(own, learned, "", run, taken)
    if not taken:
        raise UserError(
            f"{run} cannot be started from: its {theirs.agent_name} and this agent have no "
            f"parameters in common"
        )
    for one, other, whose in (
        (learned, own, f"its {theirs.agent_name} needs"),
        (own, learned, "this agent needs"),
    ):
        if missing := sorted(_learned_parts(one) - other.keys() - BESIDE_THE_POLICY):
            raise UserError(
                f"{run} cannot be started from: {whose} {', '.join(missing)}, which the other does "
                f"not have; give both the same settings"
            )
    agent.load_state_dict(merged)
    notes = [
        f"note: {what}: {', '.join(names)}"
        for what, names in (
            (f"begun anew, as {run} has nothing that fits", _parts_beside(own, taken)),
            (f"left out of {run}, as this agent has no such part", _parts_beside(learned, taken)),
        )
        if names
    ]
    return Origin(run, state["env_steps"], state["meta_iterations"]), notes


def _learned_parts(state: Mapping[str, Any]) -> set[str]:
    """Return the names of what holds numbers that were learned, such as moments of observations."""
    return {
        name
        for name, value in state.items()
        if name not in TRAINING_ONLY and isinstance(value, Mapping | Tensor)
    }


def _check_spaces(run: str, theirs: EnvSpec, ours: EnvSpec) -> None:
    same = theirs.observation_size == ours.observation_size
    if not (same and same_layout(theirs.action_space, ours.action_space)):
        raise UserError(
            f"{run} cannot be started from: its policy observes {theirs.observation_space} and "
            f"acts in {theirs.action_space}, but these tasks have {ours.observation_space} and "
            f"{ours.action_space}"
        )


def _merged(own: Any, given: Any, path: str, run: str, taken: set[str]) -> Any:
    """Return an agent's state with the tensors that the other one has too; note their paths."""
    if isinstance(own, Mapping):
        given = given if isinstance(given, Mapping) else {}
        if not path:  # what only training needs begins anew
            given = {name: value for name, value in given.items() if name not in TRAINING_ONLY}
        return {
            name: _merged(value, given.get(name), _below(path, name), run, taken)
            for name, value in own.items()
        }
    if not (isinstance(own, Tensor) and isinstance(given, Tensor)):
        return own
    if own.shape != given.shape:
        raise UserError(
            f"{run} cannot be started from: its {path} has the shape {tuple(given.shape)}, and "
            f"this agent's {tuple(own.shape)}; give both networks the same sizes"
        )
    taken.add(path)
    return given


def _parts_beside(state: Mapping[str, Any], taken: set[str]) -> list[str]:
    """Return the parts of an agent that hold learned tensors beside those that were taken."""
    beside = {path for name in _learned_parts(state) for path in _paths(state[name], name)} - taken
    return sorted({".".join(path.split(".")[:2]) for path in beside})


def _paths(state: Any, path: str) -> list[str]:
    """Return the paths of all tensors."""
    if isinstance(state, Mapping):
        return [each for name, value in state.items() for each in _paths(value, _below(path, name))]
    return [path] if isinstance(state, Tensor) else []


def _below(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
