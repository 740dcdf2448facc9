"""Compare MuJoCo Warp with the native simulators, one line a task.

    python scripts/check_warp.py [reach-v3 ...] [--what sources worlds] [--device cuda] [--goals 4]
                                 [--output FILE]

`sources` compiles each task's file with numba and with Warp, for this CPU and to PTX of an H100,
and compares what both make of the same states. It needs warp-lang alone.

`worlds` plays the same goals in both simulators with metaworld's scripted policies, which only
work if observations are right, and counts their successes: MuJoCo Warp has single precision and
other contacts, so that episodes are not the same step by step. Then every world takes 50 steps at
random, after which all numbers must be finite. Of locomotion's names, which are compared like this
alone, it tells the mean reward of random steps in both. It needs the extra `gpu`.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
import warp as wp
from _entry import made_by, run_script, write_figures

from envs import locomotion
from envs.metaworld import TASK_NAMES, Config, build
from envs.metaworld.native.scene import task_module
from envs.metaworld.scripted_policies import MetaworldExpert
from envs.metaworld.source_parity import compare_sources
from envs.metaworld.warp import kernels
from meta_rl.core.types import Tasks

TOLERANCE = 1e-4
"""What single precision explains, relative to numbers above 1."""


@dataclass(frozen=True)
class Args:
    """Play episodes in both simulators."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names such as reach-v3 or half_cheetah_velocity. Without any, all of Meta-World."""
    what: tuple[Literal["sources", "worlds"], ...] = ("sources", "worlds")
    """Comparisons to make."""
    goals: int = 4
    """Goals of each task; with 0, only steps at random."""
    steps: int = 500
    """Largest number of steps of an episode."""
    random_steps: int = 50
    """Number of steps at random."""
    device: str = "cpu"
    """Device of MuJoCo Warp: cpu, cuda or cuda:N."""
    output: Path | None = None
    """JSON file for all figures, written after each task."""


def main(args: Args) -> int:
    """Print one line for each task; return how many are wrong."""
    lines: dict[str, Any] = {}
    wrong = 0
    for name in args.tasks or TASK_NAMES:
        started = time.perf_counter()
        line = lines[name] = {}
        if name in locomotion.TASKS:
            line |= check_robots(name, args)
        else:
            if "sources" in args.what:
                line |= check_sources(name)
            if "worlds" in args.what:
                line |= check_worlds(name, args)
        line["seconds"] = round(time.perf_counter() - started, 1)
        wrong += not line.get("finite", True)
        wrong += not all(line.get(version, {}).get("agree", True) for version in ("v1", "v2"))
        print(f"{name}: {json.dumps(line)}", flush=True)
        if args.output is not None:
            write_figures(made_by() | {"device": args.device, "tasks": lines}, args.output)
    return wrong


def check_sources(name: str) -> dict[str, Any]:
    """Return how much the two compilers' code differs, and whether PTX comes out."""
    line: dict[str, Any] = {}
    for version in ("v2", "v1"):
        found = compare_sources(name, version)
        agree = max(found.observation, found.outputs) <= TOLERANCE and not found.jumped
        kernel = kernels.observing(task_module(name).__name__, f"reward_{version}")
        with tempfile.TemporaryDirectory() as folder:
            wp.compile_aot_module(kernel.module, arch=90, module_dir=folder, use_ptx=True)
            ptx = sum(file.stat().st_size for file in Path(folder).glob("*.ptx"))
        line[version] = {**vars(found), "ptx_bytes": ptx, "agree": agree and ptx > 0}
    return line


def check_worlds(name: str, args: Args) -> dict[str, Any]:
    """Return what a task's worlds did in both simulators."""
    line: dict[str, Any] = {}
    for simulator, device in (("native", "cpu"), ("warp", args.device)):
        distribution = build(Config(task=name, simulator=simulator, horizon=args.steps))
        tasks = distribution.tasks("train")
        env = distribution.make_env(torch.device(device), workers=1)
        try:
            if args.goals:
                line[simulator] = succeeded(env, tasks[list(range(args.goals))], args.steps)
            if simulator == "warp":
                line |= at_random(env, tasks[list(range(max(args.goals, 2)))], args.random_steps)
        finally:
            env.close()
    return line


def check_robots(name: str, args: Args) -> dict[str, Any]:
    """Return what robots earned by the same actions in both, from starts of their own."""
    line: dict[str, Any] = {"finite": True}
    for simulator, device in (("native", "cpu"), ("warp", args.device)):
        config = locomotion.Config(task=name, simulator=simulator, horizon=args.random_steps)
        distribution = locomotion.build(config)
        generator = torch.Generator().manual_seed(0)
        tasks = distribution.sample(10, "train", generator)
        env = distribution.make_env(torch.device(device), workers=1)
        obs, rewards, terminated = env.start(tasks, 10, 0), [], 0
        spread = float(obs.std((0, 1)).max())
        for _ in range(args.random_steps):
            action = torch.rand(10, 10, distribution.spec.action_size, generator=generator) * 2 - 1
            step = env.step(action)
            rewards.append(step.reward.cpu())
            terminated += int(step.terminated.sum())
            env.reset_ended()
        env.close()
        mean = torch.stack(rewards).mean(0)  # of 100 worlds
        line[simulator] = {
            "reward": round(float(mean.mean()), 4),
            "standard_error": round(float(mean.std() / mean.numel() ** 0.5), 4),
            "terminated": terminated,
            "start_deviation": round(spread, 4),
        }
        line["finite"] &= bool(torch.isfinite(mean).all())
    return line


def succeeded(env: Any, tasks: Tasks, steps: int) -> int:
    """Return in how many goals' episodes the scripted policy succeeds."""
    expert = MetaworldExpert()
    knowledge = expert.knowledge(tasks)
    obs = env.start(tasks, 1, 0)
    won = torch.zeros(len(tasks), 1, dtype=torch.bool, device=obs.device)
    for _ in range(steps):
        step = env.step(expert.act(knowledge, obs))
        won |= step.metrics["success"] > 0
        obs = env.reset_ended()
        if won.all():
            break
    return int(won.sum())


def at_random(env: Any, tasks: Tasks, steps: int) -> dict[str, Any]:
    """Return whether numbers are finite after steps at random, and how often a step had trouble."""
    env.start(tasks, 1, 0)
    generator = torch.Generator().manual_seed(0)
    finite, diverged, overflow = True, 0, 0
    for _ in range(steps):
        step = env.step(torch.rand(len(tasks), 1, 4, generator=generator) * 2 - 1)
        finite &= bool(torch.isfinite(step.next_obs).all() and torch.isfinite(step.reward).all())
        diverged += int(step.metrics["diverged"].sum())
        overflow += int(step.metrics["overflow"].sum())
        env.reset_ended()
    return {"finite": finite, "diverged": diverged, "overflow": overflow}


if __name__ == "__main__":
    run_script(main, Args, __doc__)
