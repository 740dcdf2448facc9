"""A run read back: its agent as a checkpoint has it, and the tasks it was trained on."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any

import torch

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent, TaskDistribution
from meta_rl.experiment.building import (
    build_agent,
    build_distribution,
    device_to_read_on,
    resolve_device,
    set_gpu_arithmetic,
    set_threads,
)
from meta_rl.experiment.config import Experiment, agent_fields, plain, to_dict
from meta_rl.experiment.versions import translated
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trimmed import widened


@dataclass(frozen=True)
class TrainedAgent:
    """An agent as a run's checkpoint has it, with the tasks it was trained on."""

    experiment: Experiment[Any, Any]
    distribution: TaskDistribution
    agent: MetaAgent
    device: torch.device
    env_steps: int
    meta_iterations: int

    @property
    def adaptation_episodes(self) -> int:
        """Episodes of one task that the agent learned from at a time, as it was trained."""
        if self.agent.copies_share_experience:
            return self.experiment.copies * self.agent.phases[0].episodes
        return max(1, len(self.agent.phases) - 1)


def load_trained(folder: RunFolder, which: str, device_name: str | None = None) -> TrainedAgent:
    """Load a run's agent from its `latest` or `best` checkpoint, or from another file of it.

    Args:
        device_name: Where the agent is to live; None means where it was trained, if this machine
            has that device, else its GPU or CPU.
    """
    experiment = folder.experiment()
    if device_name is None:
        device = device_to_read_on(experiment.device)
    else:
        device = resolve_device(device_name)
    set_threads(experiment)
    set_gpu_arithmetic(experiment, device)
    state = checkpoint.load(folder.checkpoint(which), device)
    check_same_sections(state, experiment)
    distribution = build_distribution(experiment)
    agent = build_agent(experiment, distribution.spec, device)
    restore(agent, widened(state["agent"]), experiment.agent_name)
    return TrainedAgent(
        experiment, distribution, agent, device, state["env_steps"], state["meta_iterations"]
    )


def restore(agent: MetaAgent, state: Mapping[str, Any], name: str) -> None:
    """Give an agent what a checkpoint kept of it.

    Raises:
        UserError: It was kept by a version whose agent of this name has other parts.
    """
    try:
        agent.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        problem = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the checkpoint's {name} has other parts than this version's ({problem}); read it by "
            f"the version that made it, whose commit is in the run's environment.txt, or train anew"
        ) from error


def check_same_sections(state: Mapping[str, Any], experiment: Experiment[Any, Any]) -> None:
    """Refuse a checkpoint of another agent, other tasks or another seed than the experiment's."""
    if "config" not in state:
        raise UserError(
            "the file is not a training checkpoint, but an adapted policy or a rejected batch; "
            "put the run's own latest.pt or best.pt back"
        )
    expected = to_dict(experiment)
    stored = translated(state["config"], "the checkpoint", agent_fields, quiet=True)
    for name in ("seed", "meta_batch_size", "copies"):
        if (given := stored.get(name, expected[name])) != expected[name]:
            raise UserError(
                f"the checkpoint is of another run: its {name} is {given}, not {expected[name]}; "
                f"name the run that it belongs to"
            )
    for section in ("agent", "envs"):
        defaults = default_settings(type(getattr(experiment, section)))
        given = plain(defaults) | stored[section]  # a file may be older than a field
        if given != expected[section]:
            changed = sorted(
                key
                for key in given.keys() | expected[section].keys()
                if given.get(key) != expected[section].get(key)
            )
            raise UserError(
                f"the checkpoint was trained with another {section} section (it differs in "
                f"{', '.join(changed)}); start a new run to change it"
            )


def default_settings(config: type) -> dict[str, Any]:
    """Return the defaults of those settings of a section that have one."""
    given: dict[str, Any] = {}
    for entry in fields(config):
        if entry.default is not MISSING:
            given[entry.name] = entry.default
        elif entry.default_factory is not MISSING:
            given[entry.name] = entry.default_factory()
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in given.items()
    }
