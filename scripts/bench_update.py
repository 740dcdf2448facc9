"""Measures one update of each agent, beside its own sampling.

    python scripts/bench_update.py [--tasks 20] [--episodes 10] [--steps 500] [--envs metaworld]
                                   [--only maml_trpo promp ...] [--output FILE] ...

Every agent plays one meta-batch (M tasks, so many episodes a task and phase) with a policy of 2×128
units, or RL² of an encoder and a memory of as many, and then updates itself from a copy of its
state, so each repetition does the same work. It also acts once more in all worlds, at the end of
what it has played: RL²'s trials have three episodes, so that a transformer then looks back on 1,500
steps of 500-step episodes. Agents that infer the task play two phases, the episodes of their
trials. Each runs in a process of its own, whose peak memory is its own. RL²'s whole iteration is
measured by `bench_iteration.py`.
"""

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

# isort: split
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro

from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.core.protocols import MetaAgent, Stored
from meta_rl.core.seeding import Streams
from meta_rl.core.threads import one_thread
from meta_rl.core.types import TimeStep
from meta_rl.experiment import catalog
from meta_rl.rollouts.adaptation import Adaptation, rollout_of

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "maml_trpo": ("maml_trpo", {}),
    "maml_trpo, every 5th step": ("maml_trpo", {"curvature_stride": 5}),
    "maml_trpo, every 10th step": ("maml_trpo", {"curvature_stride": 10}),
    "maml_trpo, first order": ("maml_trpo", {"first_order": True}),
    "maml_trpo, head": ("maml_trpo", {"adapt": "head"}),
    "maml_trpo, per_layer": ("maml_trpo", {"step_sizes": "per_layer"}),
    "maml_trpo, per_parameter": ("maml_trpo", {"step_sizes": "per_parameter"}),
    "maml_ppo": ("maml_ppo", {}),
    "maml_ppo, first order": ("maml_ppo", {"first_order": True}),
    "maml_ppo, head": ("maml_ppo", {"adapt": "head"}),
    "maml_ppo, per_layer": ("maml_ppo", {"step_sizes": "per_layer"}),
    "maml_ppo, per_parameter": ("maml_ppo", {"step_sizes": "per_parameter"}),
    "maml_ppo, 2 steps": ("maml_ppo", {"adaptation_steps": 2}),
    "maml_ppo, 2 steps, multi-step": (
        "maml_ppo",
        {"adaptation_steps": 2, "multi_step_updates": 1000},
    ),
    "promp": ("promp", {}),
    "reptile": ("reptile", {}),
    "reptile, 3 epochs": ("reptile", {"inner_epochs": 3}),
    "meta_gradient": ("meta_gradient", {}),
    "multitask_ppo": ("multitask_ppo", {}),
    "rl2_ppo, gru": ("rl2_ppo", {"episodes_per_trial": 3}),
    "rl2_ppo, gru, critic": ("rl2_ppo", {"episodes_per_trial": 3, "critic": True}),
    "rl2_ppo, lstm": ("rl2_ppo", {"episodes_per_trial": 3, "memory": "lstm"}),
    "rl2_ppo, transformer": ("rl2_ppo", {"episodes_per_trial": 3, "memory": "transformer"}),
    "varibad": ("varibad", {}),
    "metric": ("metric", {}),
}
"""What is measured; early stopping is off, so that all epochs count."""


@dataclass(frozen=True)
class Bench:
    """One update of each agent, and of its options."""

    tasks: int = 20
    """Tasks of the meta-batch (M)."""
    episodes: int = 10
    """Episodes of each task in each phase, all at once."""
    steps: int = 500
    """Horizon of an episode."""
    envs: Literal["metaworld", "point_navigation"] = "metaworld"
    """Family that is played; metaworld is ML1 reach-v3 on the native simulator."""
    repeats: int = 3
    """Updates that are timed; the fastest counts, and one more goes before."""
    threads: int = 1
    """CPU threads of torch and of the simulator."""
    device: str = "cpu"
    """Where policy and update live."""
    only: tuple[str, ...] = ()
    """Variants to measure; none measures all."""
    output: Path | None = None
    """JSON file for the figures."""

    def __post_init__(self) -> None:
        for name in ("tasks", "episodes", "steps", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in self.only:
            if name not in VARIANTS:
                hint = did_you_mean(name, list(VARIANTS))
                raise UserError(f"no variant {name!r}; {hint}There are: {'; '.join(VARIANTS)}")


def main(bench: Bench) -> None:
    """Measure, print a table and write it."""
    load = os.getloadavg()
    print(
        f"M = {bench.tasks} tasks × {bench.episodes} episodes × {bench.steps} steps a phase of "
        f"{bench.envs}, 2×128 units, {bench.device}, {bench.threads} threads; load average "
        f"{load[0]:.2f}"
    )
    if load[0] > 0.25 * len(os.sched_getaffinity(0)):
        print("WARNING: the machine is not quiet; the figures are too slow")
    print(
        f"{'':32}{'sampling':>10}{'update':>10}{'ratio':>8}{'acting':>11}{'before':>10}{'peak':>10}"
    )
    rows = {}
    context = multiprocessing.get_context("spawn")
    for name in bench.only or VARIANTS:
        with context.Pool(1) as pool:
            row = rows[name] = pool.apply(measure, (name, bench))
        print(
            f"{name:32}{row['sampling_s']:>8.2f} s{row['update_s']:>8.2f} s"
            f"{row['update_s'] / row['sampling_s']:>8.2f}{row['acting_ms']:>8.2f} ms"
            f"{row['before_mb']:>7,.0f} MB{row['peak_mb']:>7,.0f} MB",
            flush=True,
        )
    print(
        "sampling: all phases and the adaptations between them; ratio: update / sampling; acting: "
        "one step of all worlds, without the simulator; before "
        f"and peak: {'resident' if bench.device == 'cpu' else 'GPU'} memory at most, before the "
        "first update and with it"
    )
    if bench.output is not None:
        settings = vars(bench) | {"output": str(bench.output), "load_average": load}
        bench.output.parent.mkdir(parents=True, exist_ok=True)
        bench.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


def measure(name: str, bench: Bench) -> dict[str, float]:
    """Return the seconds of sampling and update of one variant, and the memory it took."""
    torch.set_num_threads(bench.threads)
    device = torch.device(bench.device)
    agent_name, settings = VARIANTS[name]
    families: Mapping[str, dict[str, Any]] = {
        "metaworld": {"benchmark": "ML1", "task": "reach-v3"},
        "point_navigation": {},
    }
    family = catalog.load("envs", bench.envs)
    distribution = family.build(family.Config(horizon=bench.steps, **families[bench.envs]))
    module = catalog.load("agents", agent_name)
    defaults: dict[str, Any] = {"target_kl": None, "hidden_sizes": (128, 128)}
    known = vars(module.Config())
    defaults = {name: value for name, value in defaults.items() if name in known}
    config = module.Config(**defaults | settings)
    agent: MetaAgent = module.build(config, distribution.spec, device, 0)
    streams = Streams(0, device)
    collector = distribution.make_collector(device, bench.threads)
    try:
        tasks = distribution.sample(bench.tasks, "train", streams.tasks)
        Adaptation(
            agent, collector, tasks[[0]], 1, streams, training=True
        ).complete()  # compiles what is compiled on first use
        started = time.perf_counter()
        adaptation = Adaptation(agent, collector, tasks, bench.episodes, streams, training=True)
        batch = adaptation.complete()
        synchronize(device)
        sampling_s = time.perf_counter() - started
    finally:
        collector.close()
    state = deepcopy(agent.state_dict())
    stored = agent.mark() if isinstance(agent, Stored) else {}
    before_mb = peak_mb(device)
    each_s = []
    for _ in range(1 + bench.repeats):
        agent.load_state_dict(state)
        if isinstance(agent, Stored):
            agent.rewind(stored)
        started = time.perf_counter()
        agent.meta_update(batch)
        synchronize(device)
        each_s.append(time.perf_counter() - started)
    return {
        "sampling_s": sampling_s,
        "update_s": min(each_s[1:]),
        "acting_ms": acting_ms(agent, adaptation, device),
        "before_mb": before_mb,
        "peak_mb": peak_mb(device),
        "env_steps": float(sum(rollout.reward.numel() for rollout in batch.rollouts)),
    }


@torch.no_grad()
def acting_ms(agent: MetaAgent, adaptation: Adaptation, device: torch.device) -> float:
    """Return how long a step of all worlds takes the agent, after what it has played."""
    rollout = rollout_of(adaptation.experience[-1])
    last = {each.name: getattr(rollout, each.name)[-1] for each in fields(TimeStep)}
    timestep, context = TimeStep(**last), adaptation.context
    each_s = []
    with one_thread():  # as the collector acts in so few worlds
        for _ in range(50):
            started = time.perf_counter()
            _, _, context = agent.act(context, timestep, None)
            synchronize(device)
            each_s.append(time.perf_counter() - started)
    return 1000 * median(each_s)


def peak_mb(device: torch.device) -> float:
    """Return the most memory held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    try:
        main(tyro.cli(Bench))
    except UserError as error:
        sys.exit(f"error: {error}")
