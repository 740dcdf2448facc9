"""Compares what numba and Warp make of the same task files, on states that were visited."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.metaworld.config import Config
from envs.metaworld.goals import benchmark_goals
from envs.metaworld.native import observation, row
from envs.metaworld.native.scene import MetaworldScene, scene
from envs.metaworld.parity import scripted_policy
from meta_rl.rollouts.mujoco.engine import Engine

GOALS = 3


@dataclass(frozen=True)
class SourceParity:
    """The differences between both compilers' code, relative to numbers above 1."""

    states: int
    observation: float
    """The largest of any number of the observation."""
    outputs: float
    """The largest of reward and the other terms, on states where `jumped` is not counted."""
    jumped: int
    """States near a threshold, which single and double precision are on different sides of."""


@dataclass(frozen=True)
class Visited:
    """Rows as the native simulator hands them to `observe`, and as it leaves them."""

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    outputs: NDArray[np.float64]


def visit(its_scene: MetaworldScene, goals: list[list[float]], steps: int) -> Visited:
    """Play some goals side by side, by scripted policy with much noise."""
    engine = Engine(row.FORMAT, threads=1)
    targets, snapshots = [], []
    for goal in goals:
        snapshots.append(its_scene.snapshot(tuple(goal)))
        targets.append(np.array(its_scene.env._get_pos_goal()))
    engine.place([(its_scene, snapshot) for snapshot in snapshots])
    policy, random = scripted_policy(its_scene.name), np.random.default_rng(0)
    kept: list[tuple[NDArray[np.float64], ...]] = []
    for _ in range(steps):
        for world, target in enumerate(targets):
            seen = engine.rows[world, row.OBS : row.OBS + row.OBSERVATION_SIZE].copy()
            seen[-3:] = target
            with warnings.catch_warnings(action="ignore"):
                action = policy.get_action(seen) + random.normal(0.0, 0.3, 4)
            engine.actions[world] = np.clip(action, -1, 1)
        earlier = engine.rows.copy()
        engine.step()
        before = engine.rows.copy()
        memory = [*its_scene.task.written, *range(row.FRAME, row.FRAME + row.FRAME_SIZE)]
        before[:, memory] = earlier[:, memory]
        kept.append((before, engine.rows.copy(), engine.outputs.copy()))
    engine.close()
    return Visited(*(np.concatenate(each) for each in zip(*kept, strict=True)))


def compare_sources(name: str, reward_version: str, steps: int = 100) -> SourceParity:
    """Compile a task with both, and let both observe and judge the same states."""
    import warp as wp

    from envs.metaworld.warp.kernels import observing

    goals = benchmark_goals(Config(task=name))["train"][name][:GOALS]
    its_scene = scene(name, reward_version, len(goals[0]))
    visited = visit(its_scene, goals, steps)
    count = len(visited.before)
    plan, numbers = observation.plan_of(its_scene.task)
    touching = visited.after[:, row.TOUCHING]
    rows = wp.array(visited.before, dtype=float, device="cpu")
    outputs = wp.zeros((count, row.OUTPUTS), dtype=float, device="cpu")
    actions = visited.after[:, row.ACTION : row.ACTION + 4]
    given = (plan, numbers, np.stack([touching, touching], axis=1), actions)
    kernel = observing(its_scene.module.__name__, f"reward_{reward_version}")
    arrays = [wp.array(each, dtype=int if each is plan else float, device="cpu") for each in given]
    everywhere = wp.ones(count, dtype=wp.bool, device="cpu")
    wp.launch(kernel, count, [everywhere, *arrays, rows, outputs], device="cpu")
    seen = slice(row.OBS, row.OBS + row.OBSERVATION_SIZE)
    observed = relative(rows.numpy()[:, seen], visited.after[:, seen])
    judged = relative(outputs.numpy(), visited.outputs).max(1)
    jumped = judged > 1e-2
    return SourceParity(
        states=count,
        observation=float(observed.max()),
        outputs=float(judged[~jumped].max()),
        jumped=int(jumped.sum()),
    )


def relative(ours: NDArray[np.float32], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return differences relative to numbers above 1; those of what is no number are infinite."""
    difference = np.abs(ours.astype(np.float64) - theirs) / np.maximum(1.0, np.abs(theirs))
    return np.where(np.isnan(difference), np.inf, difference)
