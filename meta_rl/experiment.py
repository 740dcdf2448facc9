"""Makes the parts that an experiment names."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from meta_rl import catalog, checkpoint
from meta_rl.config import Experiment, plain, to_dict
from meta_rl.errors import UserError
from meta_rl.protocols import MetaAgent, TaskDistribution
from meta_rl.run_folder import RunFolder
from meta_rl.types import EnvSpec


def resolve_device(name: str) -> torch.device:
    """Return the device, or say why there is none."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"no device {name!r}: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {name} was asked for, but torch {torch.__version__} sees no CUDA GPU; use "
            f"--device cpu, or install a CUDA build of torch"
        )
    return device


def set_threads(experiment: Experiment[Any, Any]) -> None:
    """Give torch the CPU threads that the experiment asks for."""
    if experiment.threads:
        torch.set_num_threads(experiment.threads)


def worker_count(experiment: Experiment[Any, Any]) -> int:
    """Return the number of processes for Gymnasium environments."""
    return experiment.workers or os.cpu_count() or 1


def build_distribution(experiment: Experiment[Any, Any]) -> TaskDistribution:
    """Make the task distribution."""
    module = catalog.load("envs", catalog.name_of(experiment.envs))
    distribution: TaskDistribution = module.build(experiment.envs)
    return distribution


def build_agent(experiment: Experiment[Any, Any], spec: EnvSpec, device: torch.device) -> MetaAgent:
    """Make the agent with its initial parameters."""
    module = catalog.load("agents", catalog.name_of(experiment.agent))
    agent: MetaAgent = module.build(experiment.agent, spec, device, experiment.seed)
    return agent


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
            return self.experiment.envs_per_task * self.agent.phases[0].episodes
        return max(1, len(self.agent.phases) - 1)


def load_trained(folder: RunFolder, which: str, device_name: str | None = None) -> TrainedAgent:
    """Load a run's agent from its `latest` or `best` checkpoint, or from another file of it."""
    experiment = folder.experiment()
    device = resolve_device(device_name or experiment.device)
    set_threads(experiment)
    state = checkpoint.load(folder.checkpoint(which), device)
    check_same_sections(state, experiment)
    distribution = build_distribution(experiment)
    agent = build_agent(experiment, distribution.spec, device)
    agent.load_state_dict(state["agent"])
    return TrainedAgent(
        experiment, distribution, agent, device, state["env_steps"], state["meta_iterations"]
    )


def check_same_sections(state: Mapping[str, Any], experiment: Experiment[Any, Any]) -> None:
    """Refuse a checkpoint of another agent or other tasks than the experiment's."""
    if "config" not in state:
        raise UserError(
            "the file is not a training checkpoint, but an adapted policy or a rejected batch; "
            "put the run's own latest.pt or best.pt back"
        )
    expected = to_dict(experiment)
    for section in ("agent", "envs"):
        defaults = plain(asdict(type(getattr(experiment, section))()))
        given = defaults | state["config"][section]  # a file may be older than a field
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
