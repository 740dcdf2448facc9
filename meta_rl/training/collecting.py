"""What plays a run's rollouts: its own simulator, on its device or beside it, or Ray workers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from meta_rl.core.errors import UserError
from meta_rl.core.lives import changes_of
from meta_rl.core.protocols import Collector, MetaAgent, TaskDistribution
from meta_rl.core.ranks import world
from meta_rl.core.resources import usable_cores
from meta_rl.core.types import EnvSpec
from meta_rl.experiment import catalog
from meta_rl.experiment.building import (
    build_agent,
    build_distribution,
    set_gpu_arithmetic,
    worker_count,
)
from meta_rl.experiment.config import Experiment, RolloutsConfig, experiment_from_dict, to_dict
from meta_rl.rollouts.collector import RolloutCollector
from meta_rl.rollouts.elsewhere import CollectorElsewhere
from meta_rl.rollouts.footprint import check_memory, rollout_bytes
from meta_rl.rollouts.ray.collector import SharingCollector
from meta_rl.rollouts.ray.presence import prepare_ray

CPU = torch.device("cpu")
SPARE_STORE_BYTES = 200_000_000
"""Of an object store that is started for a run, beside the rollouts: for policies and contexts, and
for evaluations, whose rollouts are bounded."""


def acting_device(config: RolloutsConfig, device: torch.device) -> torch.device:
    """Return the device that actions are drawn on: not always the one that the agent is on.

    Args:
        device: Where the run's agent is.

    Raises:
        UserError: Workers would act on GPUs, whose noise a run on the CPU cannot keep.
    """
    if config.backend == "local":
        return device if config.device == "same" else CPU
    if config.gpus_per_worker and device.type != "cuda":
        raise UserError(
            f"rollouts.gpus_per_worker {config.gpus_per_worker:g} needs --device cuda, got {device}"
        )
    return device if config.gpus_per_worker else CPU


def unread_settings(experiment: Experiment[Any, Any]) -> list[str]:
    """Return notes on the settings that are set and that nothing reads, because of another."""
    rollouts, change = experiment.rollouts, experiment.change
    of_ray = ("workers", "gpus_per_worker", "address", "deadline_s")
    others = of_ray if rollouts.backend == "local" else ("device", "cuda_graph")
    unread = {f"rollouts.backend {rollouts.backend}": _set_in(rollouts, "rollouts", others)}
    if not change.happens:
        unread[f"change.every {change.every}"] = _set_in(change, "change", ("how", "drift"))
    return [
        f"note: no effect with {setting}: {', '.join(names)}"
        for setting, names in unread.items()
        if names
    ]


def _set_in(section: Any, name: str, fields: Sequence[str]) -> list[str]:
    """Return which fields of a section are others than the default ones."""
    default = type(section)()
    found = [field for field in fields if getattr(section, field) != getattr(default, field)]
    return [f"{name}.{field}" for field in found]


def make_collector(
    experiment: Experiment[Any, Any],
    agent: MetaAgent,
    distribution: TaskDistribution,
    device: torch.device,
    say: Callable[[str], None],
) -> Collector:
    """Make what plays the run's rollouts.

    Args:
        device: Where the run's agent is, and rollouts go.
        say: Tells the user what goes wrong on a cluster.

    Raises:
        UserError: Ray is not there, or the cluster has no room for the workers or their rollouts.
    """
    if experiment.rollouts.backend == "local":
        return _local_collector(experiment, distribution, device)
    return _ray_collector(experiment, agent, distribution, device, say)


def _local_collector(
    experiment: Experiment[Any, Any], distribution: TaskDistribution, device: torch.device
) -> Collector:
    """Make the family's own collector, on the run's device or beside it."""
    there = acting_device(experiment.rollouts, device)
    collector = distribution.make_collector(there, worker_count(experiment))
    if experiment.rollouts.cuda_graph:
        if not isinstance(collector, RolloutCollector):
            collector.close()
            raise UserError(
                f"rollouts.cuda_graph replays a policy's steps, but the family "
                f"{experiment.envs_name} has none; leave it out"
            )
        collector.cuda_graph = True
    if there == device:
        return collector
    twin = build_agent(experiment, distribution.spec, there)
    return CollectorElsewhere(collector, twin, there, device)


def _ray_collector(
    experiment: Experiment[Any, Any],
    agent: MetaAgent,
    distribution: TaskDistribution,
    device: torch.device,
    say: Callable[[str], None],
) -> Collector:
    """Join or start a Ray cluster, and hire workers for whose rollouts it has room."""
    config, threads = experiment.rollouts, experiment.workers or 1
    prepare_ray(config.address)
    if world().size > 1:
        raise UserError(
            "rollouts.backend ray shares out the tasks itself; start the run without torchrun, or "
            "use --rollouts.backend local"
        )
    from meta_rl.rollouts.ray.cluster import join
    from meta_rl.rollouts.ray.crew import Crew

    factors = iteration_factors(experiment, agent, distribution)
    factors["episodes"] = max(phase.episodes for phase in agent.phases)
    store = rollout_bytes(factors, distribution.spec) + SPARE_STORE_BYTES
    cores = max(config.workers * threads or usable_cores(), threads)
    with ExitStack() as undo:
        cluster = join(config.address, cores, store)
        undo.callback(cluster.leave)
        workers = config.workers or max(1, int(cluster.has("CPU")) // threads)
        for what, each in (("CPU", threads), ("GPU", config.gpus_per_worker)):
            if workers * each > cluster.has(what):
                raise UserError(
                    f"{workers} Ray workers need {workers * each:g} {what}s, but the cluster has "
                    f"{cluster.has(what):g}; lower rollouts.workers, or what each takes"
                )
        _check_stores(cluster.stores, factors, workers, distribution.spec, device)
        crew = Crew(
            cluster,
            partial(build_parts, to_dict(experiment), sorted(catalog.plugins())),
            workers,
            threads,
            config.gpus_per_worker,
            config.deadline_s,
            say,
        )
        undo.pop_all()
    return SharingCollector(crew, device, changes_of(distribution))


def _check_stores(
    stores: Sequence[int],
    factors: Mapping[str, int],
    workers: int,
    spec: EnvSpec,
    device: torch.device,
) -> None:
    """Refuse phases that do not fit into the object stores of Ray's machines, this one's first.

    Args:
        factors: Settings whose product is the number of steps of a phase.
    """
    here, *others = stores
    check_memory("one phase", factors, spec, device, (here, "Ray's object store on this machine"))
    if others:
        tasks = -(-factors["meta_batch_size"] * factors["trials"] // workers)
        share = {**factors, "meta_batch_size": tasks, "trials": 1}
        memory = min(others), "the smallest object store of Ray's machines"
        check_memory("one worker's part of a phase", share, spec, device, memory)


def build_parts(
    config: Mapping[str, Any], plugins: list[str], device: torch.device
) -> tuple[MetaAgent, TaskDistribution]:
    """Make the agent and the family of a Ray worker.

    Args:
        config: The experiment as plain data.
        plugins: Modules outside the tree that the user has allowed.
    """
    for module in plugins:
        catalog.allow_plugin(module)
    experiment = experiment_from_dict(config, "the run's config")
    set_gpu_arithmetic(experiment, device)
    distribution = build_distribution(experiment)
    return build_agent(experiment, distribution.spec, device), distribution


def iteration_factors(
    experiment: Experiment[Any, Any], agent: MetaAgent, distribution: TaskDistribution
) -> dict[str, int]:
    """Return the settings whose product is the number of steps of a meta-iteration.

    Episodes that end early make fewer.
    """
    return {
        "meta_batch_size": experiment.meta_batch_size,
        "trials": experiment.trials,
        "copies": experiment.copies,
        "episodes": sum(phase.episodes for phase in agent.phases),
        "horizon": distribution.spec.horizon,
    }
