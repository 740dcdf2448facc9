"""Measures how fast worlds are stepped: natively, in worker processes, and by AsyncVectorEnv.

    python scripts/bench_sampling.py [--benchmarks ML1 ML10 ML45 | half_cheetah_direction ...]
                                     [--tasks reach-v3 ... | all] [--envpool PYTHON]
                                     [--seconds 3] [--output FILE]

All simulators of a benchmark hold the same worlds and take turns within each repeat, so that a
machine that grows busy or hot slows all of them. Every measurement is of whole episodes, the
resets at their ends included. Beside them runs the bare physics of the same worlds under the same
actions: a step's `mj_step`s and what the family lets MuJoCo work out after them, with nothing read
or written in between. Time in MuJoCo is that of such steps; what resets simulate counts as not in
it.

EnvPool needs other versions of packages than we do, so it plays in a Python of its own: `python -m
venv DIR; DIR/bin/pip install envpool`, then `--envpool DIR/bin/python`. Its worlds are of one task
with starts of its own, and of locomotion with Gymnasium's rewards.
"""

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

# isort: split
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import gymnasium
import mujoco
import numpy as np
import torch
from _bench_families import CLASSES, MakeEnv, Worlds, make_worlds, random_actions
from _entry import is_quiet, run_script, write_figures
from _physics import BarePhysics
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # before the fork, so that workers share it
from mujoco import rollout
from numpy.typing import NDArray

from envs.metaworld.native.row import FORMAT
from meta_rl.core.protocols import TaskEnv
from meta_rl.core.resources import processor
from meta_rl.core.types import Tasks
from meta_rl.rollouts.mujoco.memory import STATE
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot

SUBSTEPS = FORMAT.substeps
ASYNC, WORKERS, NATIVE = "AsyncVectorEnv", "GymnasiumTaskEnv", "NativeTaskEnv"
PHYSICS, ROLLOUT, ENVPOOL = "physics", "mujoco.rollout", "EnvPool"


@dataclass(frozen=True)
class Args:
    """Compare simulators of train tasks in env steps a second."""

    benchmarks: tuple[str, ...] = ("ML1", "ML10", "ML45")
    """Benchmarks to measure: ML1, ML10, ML25, ML45 or tasks of locomotion."""
    tasks: tuple[str, ...] = ("reach-v3",)
    """Tasks of ML1 to measure, one after another. `all` means all 50."""
    envpool: Path | None = None
    """Python that has EnvPool, to measure it as well."""
    copies: int | None = None
    """Goals of every class, at least 1, with one world each. Without it, 20 for ML1, 2 for ML10, 40
    for locomotion and 1 for the others."""
    horizon: int | None = None
    """Steps of an episode, at least 1. Without it, 500 for Meta-World and 200 for locomotion."""
    repeats: int = 5
    """Measurements of each simulator, at least 1; the median counts."""
    seconds: float = 3.0
    """Shortest length of a measurement, in seconds; it ends with an episode."""
    threads: int = 0
    """Threads of the native simulator and workers of the Gymnasium one, at least 0; 0 means all
    cores."""
    simulators: tuple[str, ...] = (ASYNC, WORKERS, NATIVE, ROLLOUT, PHYSICS)
    """Simulators to run."""
    output: Path | None = None
    """JSON file for all figures."""

    def __post_init__(self) -> None:
        if wrong := set(self.benchmarks) - CLASSES.keys():
            raise SystemExit(f"no benchmark {wrong.pop()!r}; there are {', '.join(CLASSES)}")
        known = (ASYNC, WORKERS, NATIVE, ROLLOUT, PHYSICS)
        if wrong := set(self.simulators) - set(known):
            raise SystemExit(f"no simulator {wrong.pop()!r}; there are {', '.join(known)}")
        if wrong := set(self.tasks) - ALL_V3_ENVIRONMENTS.keys() - {"all"}:
            raise SystemExit(f"no task {wrong.pop()!r}; there are {', '.join(ALL_V3_ENVIRONMENTS)}")
        if min(self.repeats, self.horizon or 1, self.copies or 1) < 1 or self.threads < 0:
            raise SystemExit("repeats, horizon and copies must be at least 1, threads at least 0")


class Contender(Protocol):
    """Something that steps the worlds of a benchmark."""

    threads: int
    mb_per_world: float | None
    kb_per_further_world: float | None

    def play(self) -> float:
        """Play one episode in every world, reset all, and return the seconds that it took."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...


class AsyncContender:
    """`gymnasium.vector.AsyncVectorEnv` of Gymnasium environments, a process each."""

    kb_per_further_world: float | None = None

    def __init__(
        self, makers: Sequence[MakeEnv], actions: NDArray[Any], end_together: bool
    ) -> None:
        self.threads = len(makers)
        self._actions, self._end_together = actions, end_together
        self._envs = AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        self._envs.reset()
        children = [process.pid for process in self._envs.processes]
        self._envs.step(actions[0])
        self.mb_per_world: float | None = sum(map(private_mb, children)) / len(makers)
        self._envs.reset()

    def play(self) -> float:
        """Play one episode; the vector environment resets by itself in the last step."""
        started = time.perf_counter()
        for action in self._actions:
            _, _, _, truncated, _ = self._envs.step(action)
        took = time.perf_counter() - started
        assert truncated.all() or not self._end_together, "the episodes should end here"
        return took

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


class TaskEnvContender:
    """One of our own simulators."""

    def __init__(
        self, env: TaskEnv, tasks: Tasks, actions: NDArray[Any], threads: int, end_together: bool
    ) -> None:
        self.threads, self._end_together = threads, end_together
        self.mb_per_world: float | None = None
        self.kb_per_further_world: float | None = None
        self._env = env
        self._actions = torch.from_numpy(actions).unsqueeze(2)  # (T, M, 1, A)
        env.start(tasks, copies=1, seed=0)

    def play(self) -> float:
        """Play one episode as a rollout worker would."""
        env = self._env
        started = time.perf_counter()
        for action in self._actions:
            step = env.step(action)
            env.reset_ended()
        took = time.perf_counter() - started
        over = bool(step.truncated.all())
        assert over or not self._end_together, "the episodes should end here"
        return took

    def further_kb_per_world(self, tasks: Tasks, copies: int = 100) -> float:
        """Return what each of many more worlds of the same tasks adds to this process."""
        before = private_mb(os.getpid())
        self._env.start(tasks, copies + 1, seed=0)
        self._env.step(self._actions[0].expand(-1, copies + 1, -1))
        grown = private_mb(os.getpid()) - before
        self._env.start(tasks, copies=1, seed=0)
        return 1e3 * grown / (len(tasks) * copies)

    def close(self) -> None:
        """End processes and threads."""
        self._env.close()


class EnvPoolContender:
    """EnvPool's C++ threads, in another Python."""

    mb_per_world: float | None = None
    kb_per_further_world: float | None = None

    def __init__(self, python: Path, worlds: Worlds, threads: int) -> None:
        self.threads = threads
        assert worlds.envpool_id is not None
        script = Path(__file__).with_name("_envpool_peer.py")
        actions = worlds.world_format.action_size
        together = int(worlds.end_together)
        numbers = map(str, (len(worlds.tasks), threads, worlds.horizon, actions, together))
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script, worlds.envpool_id, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()

    def play(self) -> float:
        """Play one episode; the vector environment resets in the step after the last."""
        assert self._process.stdin is not None
        print("play", file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit("EnvPool ended before its time; its error is above")
        return line.strip()


class RolloutContender:
    """`mujoco.rollout`: MuJoCo's own thread pool over worlds of one class, physics alone.

    Six sub-steps: its sensors show the state before a sub-step, so the sixth shows what
    `mj_forward` does. Between the calls numpy moves the hand's target, as `act` does.
    """

    PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
    CONTROLS = (
        mujoco.mjtState.mjSTATE_CTRL.value
        | mujoco.mjtState.mjSTATE_MOCAP_POS.value
        | mujoco.mjtState.mjSTATE_MOCAP_QUAT.value
    )

    mb_per_world: float | None = None
    kb_per_further_world: float | None = None

    def __init__(
        self, worlds: Sequence[tuple[Scene, Snapshot]], actions: NDArray[Any], threads: int
    ) -> None:
        self.threads = threads
        self._actions = actions
        its_scene = worlds[0][0]
        self._model = its_scene.model
        self._bounds = its_scene.env.mocap_low, its_scene.env.mocap_high
        self._states, self._targets = [], []
        data = mujoco.MjData(self._model)
        for _, snapshot in worlds:
            mujoco.mj_setState(self._model, data, snapshot.state, STATE)
            state = np.empty(mujoco.mj_stateSize(self._model, self.PHYSICS))
            mujoco.mj_getState(self._model, data, state, self.PHYSICS)
            self._states.append(state)
            self._targets.append(data.mocap_pos[0].copy())
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads)

    def play(self) -> float:
        """Play one episode in every world, 6 sub-steps a call."""
        states, targets = np.array(self._states), np.array(self._targets)
        controls = np.zeros((len(states), 1, 2 + 3 + 4))
        controls[:, 0, 5:] = 1.0, 0.0, 1.0, 0.0
        outputs = np.empty((len(states), SUBSTEPS + 1, states.shape[1]))
        started = time.perf_counter()
        for action in self._actions:
            np.clip(targets + action[:, :3] * 0.01, *self._bounds, out=targets)
            controls[:, 0, 0], controls[:, 0, 1] = action[:, 3], -action[:, 3]
            controls[:, 0, 2:5] = targets
            self._rollout.rollout(
                self._model,
                self._data,
                states,
                controls,
                control_spec=self.CONTROLS,
                nstep=SUBSTEPS + 1,
                state=outputs,
            )
            states = outputs[:, SUBSTEPS - 1].copy()
        return time.perf_counter() - started

    def close(self) -> None:
        """End the threads."""
        self._rollout.close()


def main(args: Args) -> None:
    """Run all benchmarks, print their tables, and write the figures."""
    load = os.getloadavg()
    torch.set_num_threads(1)  # the simulators alone are measured; also makes forking safe
    machine = describe_machine(load)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    if not machine["quiet"]:
        print(f"WARNING: the machine is not quiet (load {load[0]:.2f}); the figures are too low")
    results = []
    for name, task in measured(args):
        result = run_benchmark(name, task, args)
        print("\n" + describe(result), flush=True)
        results.append(result)
        if args.output is not None:  # after each, for a long run may be cut short
            settings = {**asdict(args), "output": str(args.output), "envpool": bool(args.envpool)}
            report = {"machine": machine, "settings": settings, "benchmarks": results}
            write_figures(report, args.output)


def measured(args: Args) -> Iterator[tuple[str, str | None]]:
    """Yield benchmarks, and of ML1 each task."""
    tasks = sorted(ALL_V3_ENVIRONMENTS) if "all" in args.tasks else args.tasks
    for benchmark in args.benchmarks:
        yield from ((benchmark, task) for task in (tasks if benchmark == "ML1" else (None,)))


def run_benchmark(name: str, task: str | None, args: Args) -> dict[str, Any]:
    """Measure all contenders in turns; return their rates, costs and memory."""
    worlds = make_worlds(name, task, args.copies, args.horizon)
    count, horizon = len(worlds.tasks), worlds.horizon
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        contenders = make_contenders(worlds, args)
        for contender in contenders.values():
            stack.callback(contender.close)
            contender.play()  # warms up
        for _ in range(args.repeats):
            for label, contender in contenders.items():
                rate = measure(contender, horizon * count, args.seconds)
                rates.setdefault(label, []).append(rate)
        further = {label: each.kb_per_further_world for label, each in contenders.items()}
        memory = {label: each.mb_per_world for label, each in contenders.items()}
        threads = {label: each.threads for label, each in contenders.items()}
    return {
        "benchmark": f"{name} {task}" if task else name,
        "worlds": count,
        "horizon": horizon,
        "repeats": args.repeats,
        "seconds": args.seconds,
        "cores": len(os.sched_getaffinity(0)),
        "env_steps_per_s": {label: median(each) for label, each in rates.items()},
        "every_repeat": rates,
        "mb_per_world": {label: each for label, each in memory.items() if each is not None},
        "kb_per_further_world": {
            label: each for label, each in further.items() if each is not None
        },
        "threads": threads,
        "load_average_after": os.getloadavg()[0],
    } | compare({label: median(each) for label, each in rates.items()}, threads)


def make_contenders(worlds: Worlds, args: Args) -> dict[str, Contender]:
    """Make all simulators: first those that fork, while this process has no other threads."""
    device = torch.device("cpu")
    tasks, actions, together = worlds.tasks, random_actions(worlds), worlds.end_together
    most = args.threads or len(os.sched_getaffinity(0))
    made: dict[str, Contender] = {}
    if ASYNC in args.simulators:
        made[ASYNC] = AsyncContender(worlds.makers, actions, together)
    if WORKERS in args.simulators:
        known = children()
        env = worlds.gymnasium.make_env(device, most)
        contender = TaskEnvContender(env, tasks, actions, most, together)
        contender.mb_per_world = sum(map(private_mb, children() - known)) / len(tasks)
        made[f"{WORKERS}, {count_of('worker', most)}"] = contender
    if NATIVE in args.simulators:
        for threads in sorted({most, 1}, reverse=True):
            before = private_mb(os.getpid())
            env = worlds.native.make_env(device, threads)
            contender = TaskEnvContender(env, tasks, actions, threads, together)
            contender.play()
            if threads == most:  # the others share its models
                grown = private_mb(os.getpid()) - before
                contender.mb_per_world = grown / len(tasks)
                contender.kb_per_further_world = contender.further_kb_per_world(tasks)
            made[f"{NATIVE}, {count_of('thread', threads)}"] = contender
    if args.envpool is not None and worlds.envpool_id is not None:
        label = f"{ENVPOOL}, {count_of('thread', most)}"
        made[label] = EnvPoolContender(args.envpool, worlds, most)
    physics = worlds.make_physics()
    one_model = tasks.family == "metaworld" and len(set(tasks.names)) == 1
    if ROLLOUT in args.simulators and one_model:
        made[f"{ROLLOUT}, {count_of('thread', most)}"] = RolloutContender(physics, actions, most)
    if PHYSICS in args.simulators:
        for threads in sorted({most, 1}, reverse=True):
            label = f"{PHYSICS}, {count_of('thread', threads)}"
            made[label] = BarePhysics(physics, actions, threads, worlds.world_format)
    return made


def measure(contender: Contender, env_steps: int, seconds: float) -> float:
    """Return env steps a second over as many episodes as fill the time."""
    took, episodes = 0.0, 0
    while took < seconds or episodes == 0:
        took += contender.play()
        episodes += 1
    return episodes * env_steps / took


def compare(rate: dict[str, float], threads: dict[str, int]) -> dict[str, Any]:
    """Relate the rates to AsyncVectorEnv, to the bare physics, and to one thread."""
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {}
    if ASYNC in rate:
        found["times_async"] = {
            label: each / rate[ASYNC]
            for label, each in rate.items()
            if not label.startswith((PHYSICS, ROLLOUT))
        }
    core_us = {label: 1e6 * min(threads[label], cores) / each for label, each in rate.items()}
    found["us_per_step_and_core"] = core_us
    shares = {}
    for label, cost in core_us.items():
        busy = min(threads[label], cores)
        bare = core_us.get(f"{PHYSICS}, {count_of('thread', busy)}")
        if bare is not None and not label.startswith((PHYSICS, ROLLOUT)):
            shares[label] = bare / cost
    found["share_of_time_in_mujoco"] = shares
    most = max((each for label, each in threads.items() if label.startswith(NATIVE)), default=1)
    for simulator in (NATIVE, PHYSICS):
        one, all_ = (f"{simulator}, {count_of('thread', n)}" for n in (1, most))
        if most > 1 and one in rate and all_ in rate:
            found.setdefault(f"scaling_1_to_{most}_threads", {})[simulator] = rate[all_] / rate[one]
    return found


def describe(result: dict[str, Any]) -> str:
    """Return a benchmark's table."""
    repeats = result["every_repeat"]
    lines = [
        f"{result['benchmark']}: {result['worlds']} worlds, episodes of {result['horizon']} steps "
        f"with their resets, median (least to most) of {result['repeats']} turns of at least "
        f"{result['seconds']:g} s",
        f"{'':28}{'env steps/s':>34}{'x async':>9}{'us/step/core':>14}{'in MuJoCo':>11}"
        f"{'MB/world':>10}",
    ]
    for label, rate in result["env_steps_per_s"].items():
        spread = f"({min(repeats[label]):,.0f} to {max(repeats[label]):,.0f})"
        times = result.get("times_async", {}).get(label)
        share = result["share_of_time_in_mujoco"].get(label)
        memory = result["mb_per_world"].get(label)
        lines.append(
            f"{label:28}{rate:>12,.0f} {spread:>21}"
            + f"{'' if times is None else f'{times:.2f}':>9}"
            + f"{result['us_per_step_and_core'][label]:>14.1f}"
            + f"{'' if share is None else f'{share:.0%}':>11}"
            + f"{'' if memory is None else f'{memory:.1f}':>10}"
        )
    for label, share in result["share_of_time_in_mujoco"].items():
        if label.startswith(NATIVE):
            lines.append(f"{label}: a step costs {1 / share:.2f} x the bare physics, per core")
    for label, kilobytes in result["kb_per_further_world"].items():
        lines.append(f"{label}: each further world of these goals takes {kilobytes:.0f} kB")
    native, peer = (
        next(
            (rate for label, rate in result["env_steps_per_s"].items() if label.startswith(each)),
            None,
        )
        for each in (NATIVE, ENVPOOL)
    )
    if native is not None and peer is not None:
        lines.append(f"native / EnvPool: {native / peer:.2f}")
    for name, scaling in result.items():
        if name.startswith("scaling"):
            each = ", ".join(f"{label} {factor:.2f}" for label, factor in scaling.items())
            lines.append(f"{name.replace('_', ' ')}: {each}")
    return "\n".join(lines)


def count_of(noun: str, number: int) -> str:
    """Return such as `1 thread` or `2 threads`."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


def private_mb(pid: int | None) -> float:
    """Return the resident memory that a process shares with no other, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def children() -> set[int]:
    """Return this process's child processes."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text().split()}


def describe_machine(load: tuple[float, float, float]) -> dict[str, Any]:
    """Return what the figures depend on, and whether other programs were running."""
    head = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": f"python {platform.python_version()}, mujoco {mujoco.__version__}, "
        f"gymnasium {gymnasium.__version__}, metaworld {version('metaworld')} "
        f"({len(ALL_V3_ENVIRONMENTS)} tasks), torch {torch.__version__}",
        "commit": head.stdout.strip(),
        "load_average": list(load),
        "quiet": is_quiet(load),
    }


if __name__ == "__main__":
    run_script(main, Args, __doc__)
