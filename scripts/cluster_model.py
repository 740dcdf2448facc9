"""Tells how long a meta-iteration takes with more and more Ray workers, by a model of its parts.

    python scripts/cluster_model.py CONFIG [--iterations 2] [--ray 1 2] [--output FILE]
                                    [--field value ...]

CONFIG and fields are those of `meta-rl train`. The constants are measured here with the trainer's
own code: how long one core plays and acts for few tasks and for many, how long learning takes on
`--threads` cores, how many bytes travel, and how fast they are copied. `_cluster_costs.py` puts
them together.

`--ray` names numbers of workers that are tried out on this machine, each beside the local backend
on as many threads: that tells what Ray costs, and how far the model is off. No two measurements
run at a time; other programs disturb them.
"""

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

# isort: split
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cluster_costs import Costs, Iteration, Line, Machines, efficiency, iteration, saturation
from _entry import check_output, finish, write_figures
from bench_iteration import SAMPLING, SIMULATOR, Stopwatch, watch
from rich.console import Console
from rich.table import Table

from meta_rl.commands._flags import experiment_of, take
from meta_rl.core.errors import UserError
from meta_rl.core.types import MetaBatch
from meta_rl.experiment.config import Experiment, to_dict
from meta_rl.rollouts.adaptation import Adaptation
from meta_rl.rollouts.collector import ending
from meta_rl.rollouts.ray.job import columns_of, size_of, to_arrays
from meta_rl.rollouts.ray.sharing import side_by_side
from meta_rl.training.temporary import temporary_trainer
from meta_rl.training.trainer import Trainer

PLACES = (
    Machines("laptop", cores=8, machines=1, link_bytes_a_s=1, learning_speed=1),
    # An H100's meta-update against that of 16 cores: 0.698 s / 0.112 s in results/gpu_h100.json.
    Machines("workstation with a GPU", cores=64, machines=1, link_bytes_a_s=1, learning_speed=6),
    Machines("cluster, 10 Gbit/s", cores=16, machines=16, link_bytes_a_s=1.25e9, learning_speed=1),
)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TASKS_A_WORKER = 4
"""Tasks for each worker where the meta-batch grows with the workers."""


@dataclass(frozen=True)
class Parts:
    """Seconds of one meta-iteration of some tasks."""

    tasks: int
    env_steps: int
    playing_s: float
    acting_s: float
    learning_s: float


def main(arguments: list[str]) -> int:
    """Measure, print what the model says, and write both."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    arguments, iterations = take(arguments, "--iterations")
    arguments, output = take(arguments, "--output")
    check_output(Path(output) if output else None)
    arguments, tried = _numbers(arguments, "--ray")
    experiment = experiment_of(arguments[0], arguments[1:], "cluster_model.py CONFIG")
    report: dict[str, Any] = {"load_average": os.getloadavg(), "experiment": to_dict(experiment)}
    count = int(iterations or 2)
    if count < 1:
        raise UserError(f"--iterations must be at least 1, got {count}")
    costs = measure(experiment, count)
    report["costs"] = asdict(costs)
    console = Console(width=120)
    console.print(told(costs))
    for place in PLACES:
        same, growing = scaled(costs, place)
        console.print(table(place, same, growing))
        console.print(advice(costs, place, same))
        report[place.name] = {
            "machines": asdict(place),
            "same_batch": [asdict(each) for each in same],
            "growing_batch": [asdict(each) for each in growing],
        }
    if tried:
        report["tried"] = [compared(experiment, costs, workers, count) for workers in tried]
        console.print(table_of_tried(report["tried"]))
    if output:
        write_figures(report, Path(output))
    return 0


def measure(experiment: Experiment[Any, Any], iterations: int) -> Costs:
    """Return what a meta-iteration costs, playing on one core."""
    alone = replace(
        experiment,
        workers=1,
        rollouts=replace(experiment.rollouts, backend="local"),
        evaluation=replace(experiment.evaluation, every=0),
    )
    whole = alone.meta_batch_size * alone.trials
    sizes = sorted({max(2, whole // 8), max(2, whole // 2), whole})
    if len(sizes) < 2:
        raise UserError(f"a meta-batch of {whole} tasks is too small to be shared out")
    with temporary_trainer(alone) as trainer:
        stopwatch = Stopwatch(trainer.device)
        watch(trainer, stopwatch)
        traffic = Traffic(trainer)
        parts = []
        for size in sizes:
            played(trainer, stopwatch, size)  # warms caches and compiled code up
            parts += [played(trainer, stopwatch, size) for _ in range(iterations)]
        traffic.forget()
        batch, _ = collected(trainer, whole)
        tasks = [part.tasks for part in parts]
        learned = [part for part in parts if part.tasks > sizes[0]] if len(sizes) > 2 else parts
        return Costs(
            whole,
            alone.copies,
            len(trainer.agent.phases),
            parts[-1].env_steps // whole,
            Line.through(tasks, [part.playing_s for part in parts]),
            Line.through(tasks, [part.acting_s for part in parts]),
            Line.through([p.tasks for p in learned], [p.learning_s for p in learned]),
            size_of(to_arrays(trainer.agent.state_dict())),
            traffic.sent / whole,
            traffic.received / whole,
            copying_speed(columns_of(batch.rollouts[-1])),
        )


class Traffic:
    """Counts the bytes that would travel if a collector's tasks were played elsewhere."""

    def __init__(self, trainer: Trainer) -> None:
        self.forget()
        collect = trainer.collector.collect

        def counting(agent: Any, context: Any, *rest: Any, **more: Any) -> Any:
            previous = more.get("previous")
            known = None if previous is None else columns_of(ending(previous))
            self.sent += size_of((to_arrays(context), known))
            experience, moved = collect(agent, context, *rest, **more)
            self.received += size_of((columns_of(experience), to_arrays(moved)))
            return experience, moved

        trainer.collector.collect = counting  # type: ignore[method-assign]

    def forget(self) -> None:
        """Count from nothing again."""
        self.sent = self.received = 0


def collected(trainer: Trainer, size: int) -> tuple[MetaBatch, int]:
    """Return a meta-batch of some tasks, and its env steps."""
    experiment, streams = trainer.experiment, trainer.streams
    before = trainer.collector.env_steps
    tasks = trainer.distribution.sample(experiment.meta_batch_size, "train", streams.tasks)
    if experiment.trials > 1:
        tasks = tasks[[row for row in range(len(tasks)) for _ in range(experiment.trials)]]
    some = tasks.part(slice(0, size))
    adaptation = Adaptation(
        trainer.agent, trainer.collector, some, experiment.copies, streams, training=True
    )
    return adaptation.complete(), trainer.collector.env_steps - before


def played(trainer: Trainer, stopwatch: Stopwatch, size: int) -> Parts:
    """Play and learn from a meta-batch of some tasks; return the seconds of its parts."""
    stopwatch.seconds.clear()
    threads = torch.get_num_threads()
    with stopwatch.part("rest"):
        torch.set_num_threads(1)  # a worker's
        batch, env_steps = collected(trainer, size)
        torch.set_num_threads(threads)
        trainer.update(batch)
    seconds = stopwatch.seconds
    playing = sum(seconds.get(name, 0.0) for name in (*SIMULATOR, "record"))
    learning = sum(took for name, took in seconds.items() if name not in SAMPLING)
    return Parts(size, env_steps, playing, seconds.get("act", 0.0), learning)


def copying_speed(columns: Mapping[str, Any]) -> float:
    """Return how many bytes a second are joined along the tasks' axis."""
    arrays = [column for column in columns.values() if isinstance(column, np.ndarray)]
    halves = [np.array_split(column, 2, axis=1) for column in arrays]
    best_s = float("inf")
    for _ in range(5):
        began_s = time.perf_counter()
        for parts in halves:
            side_by_side(*parts)
        best_s = min(best_s, time.perf_counter() - began_s)
    return size_of(arrays) / best_s


def scaled(costs: Costs, place: Machines) -> tuple[list[Iteration], list[Iteration]]:
    """Return iterations by workers: of the experiment's batch, and of one that grows with them."""
    counts = [count for count in WORKERS if count <= place.cores * place.machines]
    same = [iteration(costs, place, count, costs.tasks) for count in counts]
    growing = [iteration(costs, place, count, TASKS_A_WORKER * count) for count in counts]
    return same, growing


def told(costs: Costs) -> str:
    """Return what was measured, in words."""
    lines = {"simulator": costs.playing, "policy": costs.acting, "learning": costs.learning}
    parts = "\n".join(
        f"  {name:10}{line.fixed_s:8.3f} s and {line.each_s:7.4f} s for each task"
        for name, line in lines.items()
    )
    return (
        f"{costs.tasks} tasks, {costs.copies} copies, {costs.phases} phases, "
        f"{costs.tasks * costs.env_steps_a_task:,} env steps a meta-iteration\n{parts}\n"
        f"  the agent's state has {costs.state_bytes / 1e6:.2f} MB; of each task "
        f"{costs.sent_bytes_a_task / 1e6:.3f} MB travel to a worker and "
        f"{costs.received_bytes_a_task / 1e6:.2f} MB back; copies run at "
        f"{costs.copied_bytes_a_s / 1e9:.1f} GB/s"
    )


def table(place: Machines, same: Sequence[Iteration], growing: Sequence[Iteration]) -> Table:
    """Return the model's figures for one place."""
    titles = ["workers", "playing", "moving", "learning", "whole", "efficiency"]
    shown = Table(
        *(f"{title} s" if 0 < at < 5 else title for at, title in enumerate(titles)),
        "tasks",
        "env steps/s",
        "efficiency",
        title=f"{place.name}: this meta-batch, and {TASKS_A_WORKER} tasks for each worker",
    )
    for one, more in zip(same, growing, strict=True):
        shown.add_row(
            str(one.workers),
            *(f"{s:.2f}" for s in (one.playing_s, one.moving_s, one.learning_s, one.whole_s)),
            f"{efficiency(same[0], one):.0%}",
            str(TASKS_A_WORKER * more.workers),
            f"{more.env_steps / more.whole_s:,.0f}",
            f"{efficiency(growing[0], more):.0%}",
        )
    return shown


def advice(costs: Costs, place: Machines, same: Sequence[Iteration]) -> str:
    """Return from which number of workers on the learner holds them up, and what helps then."""
    if (full := saturation(same)) is None:
        return f"{place.name}: workers play longer than the learner works, up to the last line\n"

    def rate(speed: float, tasks: int) -> float:
        faster = replace(place, learning_speed=place.learning_speed * speed)
        changed = iteration(costs, faster, full.workers, tasks)
        return changed.env_steps / changed.whole_s

    now = rate(1, costs.tasks)
    changes = {
        "a learner six times as fast, say on a GPU": rate(6, costs.tasks),
        "four times the meta-batch": rate(1, 4 * costs.tasks),
        "both": rate(6, 4 * costs.tasks),
    }
    gains = ", ".join(f"{gain / now:.1f} x with {name}" for name, gain in changes.items())
    return (
        f"{place.name}: from {full.workers} worker{'s' * (full.workers > 1)} on, learning and "
        f"moving take longer than playing. There, env steps/s rise by {gains}.\n"
    )


def compared(
    experiment: Experiment[Any, Any], costs: Costs, workers: int, iterations: int
) -> dict[str, Any]:
    """Take turns between the local backend and Ray workers on as many cores; return seconds.

    A turn of the one comes right before a turn of the other, so a machine that grows busy slows
    both.
    """
    local = replace(experiment, workers=workers, rollouts=replace(experiment.rollouts, workers=0))
    shared = replace(experiment.rollouts, backend="ray", workers=workers)
    remote = replace(experiment, workers=1, rollouts=shared)
    each_s: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    with ExitStack() as stack:
        trainers = {
            name: stack.enter_context(temporary_trainer(which))
            for name, which in (("local", local), ("ray", remote))
        }
        for turn in range(1 + iterations):
            for name, trainer in trainers.items():
                began_s = time.perf_counter()
                batch = trainer.collect()
                collected_s = time.perf_counter()
                trainer.update(batch)
                if turn > 0:  # the first warms up
                    took = collected_s - began_s, time.perf_counter() - began_s
                    each_s[name].append(took)
    here = Machines("here", workers, 1, 1, 1)
    model = iteration(costs, here, workers, costs.tasks)
    return {
        "workers": workers,
        "model": asdict(model),
        "model_collecting_s": model.collecting_s,
        "model_whole_s": model.whole_s,
        **{f"{name}_collecting_s": [took for took, _ in both] for name, both in each_s.items()},
        **{f"{name}_whole_s": [took for _, took in both] for name, both in each_s.items()},
    }


def table_of_tried(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return what Ray took beside the local backend and beside the model."""
    shown = Table(
        "workers",
        "local s",
        "Ray s",
        "Ray / local",
        "model s",
        title="tried here: a whole meta-iteration, the fastest of the turns",
    )
    for row in rows:
        local, shared = min(row["local_whole_s"]), min(row["ray_whole_s"])
        shown.add_row(
            str(row["workers"]),
            f"{local:.2f}",
            f"{shared:.2f}",
            f"{shared / local:.3f}",
            f"{row['model_whole_s']:.2f}",
        )
    return shown


def _numbers(arguments: list[str], name: str) -> tuple[list[str], list[int]]:
    """Split `name 1 2 3` off the arguments."""
    if name not in arguments:
        return arguments, []
    at = end = arguments.index(name) + 1
    while end < len(arguments) and arguments[end].isdigit():
        end += 1
    numbers = [int(word) for word in arguments[at:end]]
    if not numbers or min(numbers) < 1:
        raise UserError(f"{name} needs numbers of workers, at least 1")
    return arguments[: at - 1] + arguments[end:], numbers


if __name__ == "__main__":
    finish(lambda: main(sys.argv[1:]))
