"""Measures where the time of a meta-iteration goes, with the trainer's own code.

    python scripts/bench_iteration.py CONFIG [--iterations 3] [--warmup 1] [--output FILE]
                                      [--field value ...]

CONFIG and fields are those of `meta-rl train`. The run folder is a temporary one. Afterwards the
last rollout's actions are replayed in the simulator alone, which tells how much acting and
recording slow it, and in MuJoCo alone, which is the least that these steps can take.
"""

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

# isort: split
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from _entry import check_output, finish, is_quiet, made_by, write_figures
from _physics import BarePhysics

from meta_rl.commands._flags import experiment_of, take
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import TaskEnv
from meta_rl.core.types import MetaBatch
from meta_rl.experiment.config import Experiment, to_dict
from meta_rl.learning import baseline
from meta_rl.rollouts.acting_graph import ActingGraph
from meta_rl.rollouts.collector import RolloutCollector
from meta_rl.rollouts.elsewhere import CollectorElsewhere
from meta_rl.rollouts.mujoco.task_env import MujocoTaskEnv
from meta_rl.training.temporary import temporary_trainer
from meta_rl.training.trainer import Trainer

SIMULATOR = ("start", "step", "reset")
SAMPLING = (*SIMULATOR, "act", "record")
LEARNING = ("advantages", "adapt", "meta-update", "rest")
MEANING = {
    "start": "env.start: worlds given their tasks",
    "step": "env.step",
    "reset": "env.reset_ended",
    "act": "agent.act",
    "record": "the rest of the collector, with copies to and from a GPU",
    "advantages": "the baseline's fit and advantages, wherever the agent computes them",
    "adapt": "agent.adapt, without advantages",
    "meta-update": "agent.meta_update, without advantages",
    "rest": "checks, metrics, copies of the state",
}


class Stopwatch:
    """Seconds spent in each part; a part that runs within another is not counted there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._running: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs within as a part."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Let all calls of a method count as a part."""
        call: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        setattr(owner, method, timed)

    def _charge(self) -> None:
        """Charge the time since the last change to the innermost part."""
        if self._device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def main(arguments: list[str]) -> int:
    """Run some meta-iterations, print the mean split, and write it."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    load = os.getloadavg()
    options = {"--iterations": "3", "--warmup": "1", "--output": ""}
    for name in options:
        arguments, given = take(arguments, name)
        options[name] = given or options[name]
    iterations = whole("--iterations", options["--iterations"], 1)
    warmup = whole("--warmup", options["--warmup"], 0)
    output = Path(options["--output"]) if options["--output"] else None
    check_output(output)
    experiment = experiment_of(arguments[0], arguments[1:], "bench_iteration.py CONFIG")
    print(f"{experiment.name}: {iterations} meta-iterations after {warmup}")
    print(f"load average at start: {', '.join(f'{each:.2f}' for each in load)}", flush=True)
    if not is_quiet(load):
        print("WARNING: the machine is not quiet; the figures are too slow")
    report = made_by() | {"load_average": load} | measure(experiment, iterations, warmup)
    print(describe(report))
    if output is not None:
        write_figures(report, output)
    return 0


def whole(name: str, given: str, least: int) -> int:
    """Return a whole number that a flag gives."""
    if not given.isdigit() or int(given) < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {given!r}")
    return int(given)


def measure(experiment: Experiment[Any, Any], iterations: int, warmup: int) -> dict[str, Any]:
    """Return the seconds of each part, the mean over meta-iterations, and the peak memory."""
    batches: list[MetaBatch] = []
    with temporary_trainer(experiment) as trainer:
        stopwatch = Stopwatch(trainer.device)
        env = simulator_of(trainer)
        simulator = env.start, env.step, env.reset_ended
        watch(trainer, stopwatch)
        update = trainer.agent.meta_update

        def remember(batch: MetaBatch) -> Any:
            batches[:] = [batch]
            return update(batch)

        setattr(trainer.agent, "meta_update", remember)  # noqa: B010
        each_s: list[float] = []
        env_steps = 0
        for iteration in range(warmup + iterations):
            if iteration == warmup:
                stopwatch.seconds.clear()
                env_steps = trainer.collector.env_steps
            batches.clear()  # the trainer would not hold it any longer either
            started = time.perf_counter()
            with stopwatch.part("rest"):
                trainer._fetch(trainer.meta_iteration(trainer._state()))
            each_s.append(time.perf_counter() - started)
        env_steps = (trainer.collector.env_steps - env_steps) // iterations
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        workers_mb = [worker_peak_mb(worker.pid) for worker in active_children()]
        alone = replay(*simulator, batches[0]) if batches else None
        bare = bare_physics(env, batches[0]) if batches else None
    seconds = {name: stopwatch.seconds.get(name, 0.0) / iterations for name in MEANING}
    return {
        "experiment": to_dict(experiment),
        "torch_threads": torch.get_num_threads(),
        "device": str(trainer.device),
        "env_steps": env_steps,
        "iteration_s": sum(each_s[warmup:]) / iterations,
        "every_iteration_s": each_s,
        "seconds": seconds,
        "simulator_alone_env_steps_per_s": alone,
        "bare_physics_env_steps_per_s": bare,
        "peak_mb": peak_mb,
        "workers_peak_mb": workers_mb,
    }


def simulator_of(trainer: Trainer) -> TaskEnv:
    """Return the simulator of a family that is played in one."""
    played_by = trainer.collector
    collector = played_by.collector if isinstance(played_by, CollectorElsewhere) else played_by
    assert isinstance(collector, RolloutCollector)
    return collector.env


def watch(trainer: Trainer, stopwatch: Stopwatch) -> None:
    """Put timing proxies in front of the trainer's parts."""
    env = simulator_of(trainer)
    stopwatch.wrap(env, "start", "start")
    stopwatch.wrap(env, "step", "step")
    stopwatch.wrap(env, "reset_ended", "reset")
    played_by = trainer.collector
    acting = played_by.twin if isinstance(played_by, CollectorElsewhere) else trainer.agent
    stopwatch.wrap(acting, "act", "act")
    stopwatch.wrap(ActingGraph, "act", "act")
    stopwatch.wrap(trainer.agent, "adapt", "adapt")
    stopwatch.wrap(trainer.agent, "meta_update", "meta-update")
    stopwatch.wrap(trainer.collector, "collect", "record")
    estimate = baseline.baseline_advantage
    for name, module in list(sys.modules.items()):
        ours = name.startswith(("agents.", "meta_rl.learning."))
        if ours and module is not baseline and vars(module).get("baseline_advantage") is estimate:
            stopwatch.wrap(module, "baseline_advantage", "advantages")


def replay(
    start: Callable[..., Any],
    step: Callable[..., Any],
    reset_ended: Callable[..., Any],
    batch: MetaBatch,
) -> float:
    """Play the last rollout's actions again with nothing else; return env steps a second."""
    rollout = batch.rollouts[-1]
    started = time.perf_counter()
    start(batch.tasks, rollout.reward.shape[2], 0)
    for t, action in enumerate(rollout.action):
        if t > 0:
            reset_ended()
        step(action)
    return rollout.reward.numel() / (time.perf_counter() - started)


def bare_physics(env: TaskEnv, batch: MetaBatch) -> float | None:
    """Play the last rollout's actions in MuJoCo alone; return env steps a second of all threads."""
    if not isinstance(env, MujocoTaskEnv):
        return None
    rollout = batch.rollouts[-1]
    copies = rollout.reward.shape[2]
    worlds = [world for task in batch.tasks for world in [env.world(task)] * copies]
    actions = rollout.action.cpu().numpy().reshape(len(rollout.action), len(worlds), -1)
    actions = actions.clip(env._low, env._high)
    threads = len(env._engine._simulators)
    physics = BarePhysics(worlds, actions, threads, env._format)
    took = physics.play()
    physics.close()
    return rollout.reward.numel() / took


def describe(report: dict[str, Any]) -> str:
    """Return the split as a table, and what the acceptance asks of it."""
    seconds, total = report["seconds"], report["iteration_s"]
    lines = [
        f"{report['env_steps']:,} env steps a meta-iteration, {total:.2f} s (each, with the "
        f"warm-up: {', '.join(f'{each:.2f}' for each in report['every_iteration_s'])}); torch on "
        f"{report['torch_threads']} threads, {report['device']}",
        *(
            f"  {name:12}{seconds[name]:9.3f} s {seconds[name] / total:6.1%}  {MEANING[name]}"
            for name in MEANING
        ),
    ]
    simulating, sampling, learning = (
        sum(seconds[name] for name in names) for names in (SIMULATOR, SAMPLING, LEARNING)
    )
    rate = report["env_steps"] / sampling
    lines.append(
        f"sampling {sampling:.2f} s, {sampling / total:.1%}: {rate:,.0f} env steps/s, "
        f"{simulating / sampling:.1%} of that time in the simulator"
    )
    if (alone := report["simulator_alone_env_steps_per_s"]) is not None:
        lines.append(
            f"simulator alone, the last rollout replayed: {alone:,.0f} env steps/s; sampling runs "
            f"at {rate / alone:.1%} of it"
        )
    if (bare := report["bare_physics_env_steps_per_s"]) is not None:
        lines.append(
            f"MuJoCo alone, likewise: {bare:,.0f} env steps/s; a meta-iteration takes "
            f"{total * bare / report['env_steps']:.2f} x that time"
        )
    lines.append(f"not sampling {learning:.2f} s, {learning / total:.1%}")
    lines.append(f"peak resident memory {report['peak_mb']:,.0f} MB")
    if workers := report["workers_peak_mb"]:
        lines[-1] += f", and in {len(workers)} worker processes {sum(workers):,.0f} MB"
    return "\n".join(lines)


def worker_peak_mb(pid: int | None) -> float:
    """Return the most memory that a live process held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return peak * 1024 / 1e6


if __name__ == "__main__":
    finish(lambda: main(sys.argv[1:]))
