"""Makes the parts that an experiment names."""

import os
from typing import Any

import torch

from meta_rl.core.continual import Stream
from meta_rl.core.errors import UserError
from meta_rl.core.lives import Changing
from meta_rl.core.protocols import MetaAgent, TaskDistribution
from meta_rl.core.ranks import world
from meta_rl.core.resources import usable_cores
from meta_rl.core.types import EnvSpec
from meta_rl.experiment import catalog
from meta_rl.experiment.config import Experiment, check_device

MANY_THREADS = 64
"""Threads that are never refused, however few cores there are."""


def resolve_device(name: str) -> torch.device:
    """Return the device, or say why there is none."""
    check_device(name)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"no device {name!r}: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {name} was asked for, but torch {torch.__version__} sees no CUDA GPU; use "
            f"--device cpu, or install a CUDA build of torch"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name} was asked for, but torch sees {torch.cuda.device_count()} GPU(s), "
            f"counted from cuda:0; use one of them, or --device cpu"
        )
    return device


def device_to_read_on(trained_on: str) -> torch.device:
    """Return where a finished run's agent can live on this machine.

    That is the device it was trained on; where there is none, a GPU; where there is none, the CPU.
    """
    try:
        return resolve_device(trained_on)
    except UserError:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_threads(experiment: Experiment[Any, Any]) -> None:
    """Give torch the CPU threads that the experiment asks for.

    Without a number, torch keeps what it found (OMP_NUM_THREADS counts), but no more than the
    process may use: torch does not see the quota of a container.
    """
    most = max(MANY_THREADS, 4 * usable_cores())
    if experiment.threads > most:
        raise UserError(
            f"threads must be at most {most} on this machine, which has {usable_cores()} cores, "
            f"got {experiment.threads}"
        )
    threads = experiment.threads or min(torch.get_num_threads(), usable_cores())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def set_gpu_arithmetic(experiment: Experiment[Any, Any], device: torch.device) -> None:
    """Let torch calculate on a GPU as the experiment asks for."""
    if device.type != "cuda":
        return
    repeatable = experiment.gpu_arithmetic == "repeatable"
    if repeatable:  # which cuBLAS reads when it begins
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(repeatable)
    tf32 = experiment.gpu_arithmetic == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32  # which recurrent layers read, and which is on at first


def worker_count(experiment: Experiment[Any, Any]) -> int:
    """Return the number of processes for Gymnasium environments, or of threads of worlds.

    Ranks on one machine share its cores.
    """
    return experiment.workers or max(1, usable_cores() // world().local_size)


def build_distribution(experiment: Experiment[Any, Any]) -> TaskDistribution:
    """Make the task distribution."""
    module = catalog.load("envs", experiment.envs_name)
    distribution: TaskDistribution = module.build(experiment.envs)
    _check_complete(distribution, TaskDistribution, module.__name__)
    if not experiment.change.happens:
        return distribution
    kind = Stream if experiment.change.in_iterations else Changing
    return kind(distribution, experiment.change)


def build_agent(experiment: Experiment[Any, Any], spec: EnvSpec, device: torch.device) -> MetaAgent:
    """Make the agent with its initial parameters."""
    module = catalog.load("agents", experiment.agent_name)
    agent: MetaAgent = module.build(experiment.agent, spec, device, experiment.seed)
    _check_complete(agent, MetaAgent, module.__name__)
    for name, least in getattr(agent, "least", {}).items():
        if getattr(experiment, name) < least:
            raise UserError(
                f"{experiment.agent_name} learns by comparison, so {name} must be at least "
                f"{least}, got {getattr(experiment, name)}"
            )
    return agent


def _check_complete(made: object, kind: type, module: str) -> None:
    """Raise a UserError if what a module has built lacks a part that every such thing has."""
    parts = {name for name in (*kind.__annotations__, *vars(kind)) if not name.startswith("_")}
    if missing := sorted(name for name in parts if not hasattr(made, name)):
        raise UserError(
            f"{module}.build() returns a {type(made).__name__} without {', '.join(missing)}; a "
            f"{kind.__name__} has them (CONTRIBUTING.md)"
        )
