"""Counts how often Meta-World's scripted policies succeed, natively and in metaworld's own code.

    python scripts/scripted_policies.py [TASK ...] [--goals 10] [--output FILE]

In each simulator the policy acts on that simulator's observations, with the goal shown to it. An
episode of 500 steps succeeds if any of its steps does.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from _entry import made_by, run_script, write_figures
from numpy.typing import NDArray

from envs.metaworld import MAX_HORIZON, TASK_NAMES, Config, build
from envs.metaworld.gymnasium_face import MetaworldFamily
from envs.metaworld.native.row import FORMAT, REWARD, SUCCESS
from envs.metaworld.native.scene import scene
from envs.metaworld.parity import scripted_policy
from meta_rl.core.errors import UserError
from meta_rl.core.types import Tasks
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.mujoco.engine import Engine

GOAL = slice(36, 39)


@dataclass(frozen=True)
class Args:
    """Play the scripted policies in both simulators."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names such as reach-v3. Without any, all."""
    goals: int = 10
    """Training goals of each task, between 1 and 50."""
    output: Path | None = None
    """JSON file for the counts and returns."""


class Metaworld:
    """metaworld's own environment of one class, one goal after another."""

    def __init__(self, name: str, tasks: Tasks) -> None:
        self._name = name
        self._goals = tasks.params.tolist()
        self._family = MetaworldFamily("v2", {name: tasks.params.shape[1]})
        self._env: Any = self._family.make(name)

    def begin(self, goal: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start an episode; return the observation and where the goal is."""
        self._family.assign(self._env, WorldTask(self._name, goal, tuple(self._goals[goal])))
        obs, _ = self._env.reset()
        return obs, self._env.unwrapped._get_pos_goal().copy()  # often a view of the simulator

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool]:
        """Return observation, reward and success."""
        obs, reward, _, _, info = self._env.step(action)
        return obs, float(reward), bool(info["success"])


def play(
    policies: list[Any],
    obs: NDArray[np.float64],
    goals: NDArray[np.float64],
    step: Callable[[NDArray[np.float32]], tuple[Any, Any, Any]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Play an episode in one or several worlds; return their returns and successes."""
    returns, succeeded = np.zeros(len(policies)), np.zeros(len(policies), dtype=np.bool_)
    for _ in range(MAX_HORIZON):
        actions = []
        for policy, seen, goal in zip(policies, obs, goals, strict=True):
            shown = seen.copy()
            shown[GOAL] = goal
            with warnings.catch_warnings(action="ignore"):
                actions.append(np.clip(policy.get_action(shown), -1, 1))
        obs, reward, success = step(np.array(actions, dtype=np.float32))
        returns += reward
        succeeded |= success
    return returns, succeeded


def compare(name: str, goals: int) -> dict[str, Any]:
    """Play all goals of a class in both simulators."""
    tasks = build(Config(task=name)).tasks("train")[list(range(goals))]
    reference = Metaworld(name, tasks)
    places, theirs = [], []
    for goal in range(goals):
        obs, place = reference.begin(goal)
        places.append(place)

        def step_one(action: NDArray[np.float32]) -> tuple[Any, Any, Any]:
            obs, reward, success = reference.step(action[0])
            return obs[None], reward, success

        theirs.append(play([scripted_policy(name)], obs[None], place[None], step_one))

    its_scene = scene(name, "v2", tasks.params.shape[1])
    engine = Engine(FORMAT, threads=1)
    engine.place([(its_scene, its_scene.snapshot(task.params)) for task in tasks])

    def step_all(action: NDArray[np.float32]) -> tuple[Any, Any, Any]:
        engine.actions[:] = action
        engine.step()
        outputs = engine.outputs
        return (
            engine.rows[:, FORMAT.observation].copy(),
            outputs[:, REWARD],
            outputs[:, SUCCESS] > 0,
        )

    policies = [scripted_policy(name) for _ in range(goals)]
    first = engine.rows[:, FORMAT.observation].copy()
    returns, succeeded = play(policies, first, np.array(places), step_all)
    engine.close()
    their_returns = np.concatenate([each for each, _ in theirs])
    their_successes = np.concatenate([each for _, each in theirs])
    return {
        "task": name,
        "goals": goals,
        "successes_native": int(succeeded.sum()),
        "successes_metaworld": int(their_successes.sum()),
        "goals_that_differ": np.flatnonzero(succeeded != their_successes).tolist(),
        "return_native": round(float(returns.mean()), 3),
        "return_metaworld": round(float(their_returns.mean()), 3),
    }


def main(args: Args) -> int:
    """Print one line a task; return on how many tasks the successes differ."""
    if not 1 <= args.goals <= 50:
        raise UserError(f"--goals must be 1 to 50, got {args.goals}")
    rows = []
    for name in args.tasks or TASK_NAMES:
        row = compare(name, args.goals)
        rows.append(row)
        print(
            f"{name:32} native {row['successes_native']:3}/{args.goals}  metaworld "
            f"{row['successes_metaworld']:3}/{args.goals}  return {row['return_native']:10.2f} "
            f"{row['return_metaworld']:10.2f}",
            flush=True,
        )
    totals = {key: sum(row[key] for row in rows) for key in rows[0] if key.startswith("successes")}
    differing = sum(bool(row["goals_that_differ"]) for row in rows)
    print(f"all: {totals}; tasks with a goal on which they differ: {differing}")
    if args.output is not None:
        write_figures(made_by() | {"totals": totals, "tasks": rows}, args.output)
    return differing


if __name__ == "__main__":
    run_script(main, Args, __doc__)
