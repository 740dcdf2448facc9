"""Compare the native simulator's tasks with metaworld's own, one line a task and reward version."""

import time
from dataclasses import dataclass
from typing import Annotated

import tyro
from _entry import run_script

from envs.metaworld import TASK_NAMES, Config, build
from envs.metaworld.parity import DRIVES, Comparison, Parity
from meta_rl.core.errors import UserError


@dataclass(frozen=True)
class Args:
    """Play episodes in both simulators, by scripted policy and by random actions."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names such as reach-v3. Without any, all."""
    goals: int = 3
    """Goals of each task, between 1 and 50."""
    steps: int = 500
    """Steps of an episode."""
    reward_versions: tuple[str, ...] = ("v2", "v1")
    """Versions of the rewards to compare."""


def main(args: Args) -> int:
    """Print one line for each task and reward version; return how many disagree."""
    wrong = 0
    if not 1 <= args.goals <= 50:
        raise UserError(f"--goals must be 1 to 50, got {args.goals}")
    for name in args.tasks or TASK_NAMES:
        tasks = list(build(Config(task=name)).tasks("train"))[: args.goals]
        for version in args.reward_versions:
            started = time.perf_counter()
            parity = Parity()
            comparison = Comparison(name, version, len(tasks[0].params))
            for task in tasks:
                for drive in DRIVES:
                    comparison.play(task.params, drive, args.steps, parity)
            comparison.close()
            verdict = "ok     " if parity.agrees else "DIFFERS"
            took = time.perf_counter() - started
            print(f"{verdict} {name} {version}: {parity.describe()} ({took:.1f} s)", flush=True)
            wrong += not parity.agrees
    return wrong


if __name__ == "__main__":
    run_script(main, Args, __doc__)
