"""Measures one update of each agent, beside its own sampling or beside its plain matrix products.

    python scripts/bench_update.py [--tasks 20] [--episodes 10] [--steps 500] [--envs metaworld]
                                   [--only maml_trpo promp ...] [--output FILE] ...

Every agent plays one meta-batch (M tasks, so many episodes a task and phase) with a policy of 2×128
units, or RL² of an encoder and a memory of as many, and then updates itself from a copy of its
state, so each repetition does the same work. It also acts once more in all worlds, at the end of
what it has played: RL²'s trials have three episodes, so that a transformer then looks back on 1,500
steps of 500-step episodes. Agents that infer the task play two phases, the episodes of their
trials. Each runs in a process of its own, whose peak memory is its own. RL²'s whole iteration is
measured by `bench_iteration.py`.

An off-policy agent's update is as many gradient steps as one asks for. So of in-context SAC, the
meta-batch is stored and one gradient step is taken: 100 steps of 32 trials, and what they remember
of the trial before. Of PEARL one step is measured, on 16 tasks × 256 steps with its paper's
networks, beside the matrix products that no implementation can do without.
"""

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

# isort: split
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from _entry import is_quiet, made_by, run_script, write_figures
from torch import Tensor

from meta_rl.core.errors import UserError, what_there_is
from meta_rl.core.protocols import EnvDistribution, MetaAgent, Stored
from meta_rl.core.ranks import dealt
from meta_rl.core.seeding import Streams
from meta_rl.core.threads import one_thread
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
    "rl2_ppo, transformer, 1 layer": (
        "rl2_ppo",
        {"episodes_per_trial": 3, "memory": "transformer", "layers": 1, "heads": 8},
    ),
    "rl2_ppo, fast weights, 1 layer": (
        "rl2_ppo",
        {"episodes_per_trial": 3, "memory": "fast_weights", "layers": 1},
    ),
    "varibad": ("varibad", {}),
    "metric": ("metric", {}),
    "in_context_sac, gru, one step": (
        "in_context_sac",
        {"episodes_per_trial": 3, "gradient_steps": 1},
    ),
    "in_context_sac, transformer, one step": (
        "in_context_sac",
        {"episodes_per_trial": 3, "gradient_steps": 1, "memory": "transformer"},
    ),
    "mbrl, gradient": ("mbrl", {}),
    "mbrl, recurrence": ("mbrl", {"adaptation": "recurrence"}),
}
"""What is measured; early stopping is off, so that all epochs count."""


OFF_POLICY = "pearl, one gradient step"


@dataclass(frozen=True)
class Bench:
    """One update of each agent and of its options."""

    tasks: int = 20
    """Tasks of the meta-batch (M), at least 1."""
    episodes: int = 10
    """Episodes of each task in each phase, at least 1, all at once."""
    steps: int = 500
    """Steps of an episode, at least 1."""
    envs: Literal["metaworld", "point_navigation"] = "metaworld"
    """Family to play. metaworld is ML1 reach-v3 on the native simulator."""
    repeats: int = 3
    """Timed updates, at least 1; the fastest counts. One untimed update goes before."""
    threads: int = 1
    """CPU threads of torch and of the simulator."""
    device: str = "cpu"
    """Device of the policy and its updates: cpu, cuda or cuda:N."""
    only: tuple[str, ...] = ()
    """Variants to measure. Without it, all."""
    output: Path | None = None
    """JSON file for the figures."""

    def __post_init__(self) -> None:
        for name in ("tasks", "episodes", "steps", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in self.only:
            known = [*VARIANTS, OFF_POLICY]
            if name not in known:
                raise UserError(f"no variant {name!r}; {what_there_is(name, known, '; ')}")


def main(bench: Bench) -> None:
    """Measure, print a table and write it."""
    load = os.getloadavg()
    print(
        f"M = {bench.tasks} tasks × {bench.episodes} episodes × {bench.steps} steps a phase of "
        f"{bench.envs}, 2×128 units, {bench.device}, {bench.threads} threads; load average "
        f"{load[0]:.2f}"
    )
    if not is_quiet(load):
        print("WARNING: the machine is not quiet; the figures are too slow")
    print(
        f"{'':38}{'sampling':>10}{'update':>10}{'ratio':>8}{'acting':>11}{'before':>10}{'peak':>10}"
    )
    rows: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    wanted = bench.only or (*VARIANTS, OFF_POLICY)
    for name in [name for name in wanted if name != OFF_POLICY]:
        with context.Pool(1) as pool:
            row = rows[name] = pool.apply(measure, (name, bench))
        write(rows, bench, load)
        print(
            f"{name:38}{row['sampling_s']:>8.2f} s{row['update_s']:>8.2f} s"
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
    if OFF_POLICY in wanted:
        with context.Pool(1) as pool:
            row = rows[OFF_POLICY] = pool.apply(measure_gradient_step, (bench,))
        write(rows, bench, load)
        print(
            f"{OFF_POLICY}: {1e3 * row['update_s']:,.0f} ms, its matrix products alone "
            f"{1e3 * row['products_s']:,.0f} ms, ratio {row['update_s'] / row['products_s']:.2f}; "
            f"peak {row['peak_mb']:,.0f} MB"
        )


def write(rows: dict[str, Any], bench: Bench, load: tuple[float, float, float]) -> None:
    """Write what was measured so far: a long run may be cut short."""
    if bench.output is not None:
        settings = vars(bench) | {"output": str(bench.output), "load_average": load}
        write_figures(made_by() | {"settings": settings, "rows": rows}, bench.output)


def measure(name: str, bench: Bench) -> dict[str, float]:
    """Return the seconds of sampling and update of one variant, and the memory it took."""
    torch.set_num_threads(bench.threads)
    device = torch.device(bench.device)
    agent_name, settings = VARIANTS[name]
    distribution = build_family(bench)
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

    def restore() -> None:
        agent.load_state_dict(state)
        if isinstance(agent, Stored):
            agent.rewind(stored)

    return {
        "sampling_s": sampling_s,
        "update_s": fastest(lambda: agent.meta_update(batch), bench, device, before=restore),
        "acting_ms": acting_ms(agent, adaptation, device),
        "before_mb": before_mb,
        "peak_mb": peak_mb(device),
        "env_steps": float(sum(rollout.reward.numel() for rollout in batch.rollouts)),
    }


@torch.no_grad()
def acting_ms(agent: MetaAgent, adaptation: Adaptation, device: torch.device) -> float:
    """Return how long a step of all worlds takes the agent, after what it has played."""
    rollout = rollout_of(adaptation.experience[-1])
    timestep, context = rollout.at(-1), adaptation.context
    each_s = []
    with one_thread():  # as the collector acts in so few worlds
        for _ in range(50):
            started = time.perf_counter()
            _, _, context = agent.act(context, timestep, None)
            synchronize(device)
            each_s.append(time.perf_counter() - started)
    return 1000 * median(each_s)


def build_family(bench: Bench) -> EnvDistribution:
    """Return the family that is played."""
    families: Mapping[str, dict[str, Any]] = {
        "metaworld": {"benchmark": "ML1", "task": "reach-v3"},
        "point_navigation": {},
    }
    module = catalog.load("envs", bench.envs)
    family: EnvDistribution = module.build(
        module.Config(horizon=bench.steps, **families[bench.envs])
    )
    return family


def measure_gradient_step(bench: Bench) -> dict[str, float]:
    """Return the seconds of one gradient step of PEARL, and of its matrix products alone."""
    torch.set_num_threads(bench.threads)
    device = torch.device(bench.device)
    spec = build_family(bench).spec
    module = catalog.load("agents", "pearl")
    config = module.Config()
    agent = module.build(config, spec, device, 0)

    def steps(count: int) -> dict[str, Tensor]:
        shape = (config.update_tasks, count)
        obs, next_obs = (torch.randn(*shape, spec.observation_size, device=device) for _ in "on")
        return {
            "obs": obs,
            "action": torch.rand(*shape, spec.action_size, device=device),
            "reward": torch.randn(shape, device=device),
            "terminated": torch.zeros(shape, dtype=torch.bool, device=device),
            "next_obs": next_obs,
        }

    context, batch = steps(config.context_size), steps(config.batch_size)
    own = dealt(config.update_tasks)
    products = matrix_products(agent, config.update_tasks, config)

    def multiply() -> None:
        for rows, weight, times in products:
            for _ in range(times):
                torch.mm(rows, weight)

    return {
        "update_s": fastest(lambda: agent.gradient_step(context, batch, own), bench, device),
        "products_s": fastest(multiply, bench, device),
        "peak_mb": peak_mb(device),
    }


def matrix_products(agent: Any, tasks: int, config: Any) -> list[tuple[Tensor, Tensor, int]]:
    """Return factors of the products that a gradient step cannot do without, and how often each.

    A layer's output is one product with its weights, and so is each of the slopes in its input and
    in its weights. The slope in the input of the encoder and of the actor is not needed. Both
    critics and the actor see a step twice: to learn from it, and to tell or take an action.
    """
    products = []
    networks = [
        (agent.encoder.layers, config.context_size, (2, 3)),
        (agent.sac.actor, config.batch_size, (3, 4)),  # the next action, and 2 or 3 to learn
        *((critic, config.batch_size, (5, 5)) for critic in agent.sac.critics),
        *((target, config.batch_size, (1, 1)) for target in agent.sac.targets),
    ]
    for network, steps, (first, others) in networks:
        layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        for i, layer in enumerate(layers):
            weight = layer.weight.detach().mT
            rows = torch.randn(tasks * steps, layer.in_features, device=weight.device)
            products.append((rows, weight, first if i == 0 else others))
    return products


def fastest(
    function: Callable[[], object],
    bench: Bench,
    device: torch.device,
    before: Callable[[], object] = lambda: None,
) -> float:
    """Return the seconds of the fastest call, after one that is not counted.

    Args:
        before: Called before each, and not timed.
    """
    each_s = []
    for _ in range(1 + bench.repeats):
        before()
        started = time.perf_counter()
        function()
        synchronize(device)
        each_s.append(time.perf_counter() - started)
    return min(each_s[1:])


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
    run_script(main, Bench, __doc__)
