"""Measures the simulator warp: env steps a second, whole and of physics alone.

    python scripts/bench_warp.py [--tasks reach-v3 half_cheetah_velocity ...]
                                 [--worlds 256 1024 4096 16384] [--device cuda] [--output FILE]

The whole is what a collector calls: actions in, observations, rewards and ends of episodes out, and
resets; no policy. Beside it the physics of the same worlds is played from where they are, as one
CUDA graph of an env step, with nothing read or written in between: the limit. Needs the extra
`gpu`.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from _entry import made_by, run_script, write_figures

from envs import locomotion, metaworld
from meta_rl.core.errors import UserError
from meta_rl.rollouts.warp.devices import warp_device
from meta_rl.rollouts.warp.task_env import WarpTaskEnv
from meta_rl.rollouts.warp.worlds import Worlds

TASKS = 32
"""Of every measurement; the worlds are shared out among them."""


@dataclass(frozen=True)
class Args:
    """Step worlds at random."""

    tasks: tuple[str, ...] = (
        "reach-v3",
        "push-v3",
        "peg-insert-side-v3",
        "half_cheetah_velocity",
    )
    """Names of Meta-World's or locomotion's tasks."""
    worlds: tuple[int, ...] = (256, 1024, 4096, 16384)
    """Numbers of worlds to measure, each a multiple of 32."""
    steps: int = 100
    """Env steps of a measurement."""
    device: str = "cuda"
    """Device of the simulator: cuda, cuda:N, or cpu to try this script."""
    output: Path | None = None
    """JSON file for all figures, written after each measurement."""


def main(args: Args) -> None:
    """Print a line for each task and number of worlds."""
    device = torch.device(args.device)
    if wrong := [count for count in args.worlds if count < 1 or count % TASKS]:
        raise UserError(f"--worlds must be multiples of {TASKS}, got {', '.join(map(str, wrong))}")
    report: dict[str, Any] = made_by() | {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {
            "warp": wp.__version__,
            "mujoco": mujoco.__version__,
            "torch": torch.__version__,
        },
        "rows": [],
    }
    for name in args.tasks:
        for count in args.worlds:
            report["rows"].append(measure(name, count, args.steps, device))
            print(json.dumps(report["rows"][-1]), flush=True)
            if args.output is not None:
                write_figures(report, args.output)


def measure(name: str, count: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Return how fast so many worlds of a task are stepped."""
    if name in locomotion.TASKS:
        distribution: Any = locomotion.build(locomotion.Config(task=name, simulator="warp"))
    else:
        distribution = metaworld.build(metaworld.Config(task=name, simulator="warp"))
    env: WarpTaskEnv = distribution.make_env(device, 1)
    tasks = distribution.sample(TASKS, "train", torch.Generator().manual_seed(0))
    started = time.perf_counter()
    env.start(tasks, count // TASKS, 0)
    shape = (TASKS, count // TASKS, distribution.spec.action_size)
    actions = torch.rand(16, *shape, device=device) * 2 - 1
    metrics: list[torch.Tensor] = []

    def env_step(number: int) -> None:
        step = env.step(actions[number % len(actions)])
        metrics.append(torch.stack([step.metrics[name].sum() for name in ("diverged", "overflow")]))
        env.reset_ended()

    env_step(0)
    synchronize(device)
    first_s = time.perf_counter() - started
    whole = timed(env_step, steps, device)
    (worlds, _), *_ = env._groups
    physics = timed(physics_of(worlds), steps, device)
    diverged, overflow = torch.stack(metrics).sum(0).tolist()
    memory = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
    env.close()
    return {
        "task": name,
        "worlds": count,
        "start_and_first_step_s": round(first_s, 1),
        "env_steps_per_s": round(count * steps / whole),
        "physics_env_steps_per_s": round(count * steps / physics),
        "share_of_physics": round(physics / whole, 3),
        "diverged_steps": int(diverged),
        "overflow_steps": int(overflow),
        "device_memory_used_gb": round((memory[1] - memory[0]) / 1e9, 2),
    }


def physics_of(worlds: Worlds) -> Callable[[int], None]:
    """Return what plays the physics of an env step."""
    world_format = worlds.world_format

    def play() -> None:
        for _ in range(world_format.substeps):
            mjw.step(worlds.model, worlds.data)

    with wp.ScopedDevice(worlds.device):
        if not worlds.device.is_cuda:
            return lambda _: play()
        with wp.ScopedCapture() as capture:
            play()
    return lambda _: wp.capture_launch(capture.graph)


def timed(step: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Return the seconds of some steps, after a few that do not count."""
    for number in range(3):
        step(number)
    synchronize(device)
    started = time.perf_counter()
    for number in range(steps):
        step(number)
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        wp.synchronize_device(warp_device(device))


if __name__ == "__main__":
    run_script(main, Args, __doc__)
