"""Compares the native simulator with metaworld's own environment, step by step."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.metaworld.gymnasium_face import MetaworldFamily
from envs.metaworld.native import row
from envs.metaworld.native.scene import MetaworldScene, scene
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.mujoco.engine import Engine
from meta_rl.rollouts.mujoco.memory import read_state

SYNCED, FREE = 0, 1
FIRST_STEPS = 20


@dataclass
class Parity:
    """The largest differences to metaworld over some episodes.

    "At its states" means that before each step the native world got the state of metaworld's
    simulator; otherwise it ran freely, side by side, with the same actions.
    """

    observation: float = 0.0
    """Of any number of the observation, at its states."""
    outputs: dict[str, float] = field(default_factory=lambda: dict.fromkeys(row.OUTPUT_NAMES, 0.0))
    """Of reward, success and the other terms, at its states."""
    free_first_steps: float = 0.0
    """Of the observation in the first 20 steps, running freely."""
    free_observation: float = 0.0
    """Of the observation in whole episodes, running freely."""
    free_return: float = 0.0
    """Of an episode's sum of rewards, running freely."""
    free_return_allowed: float = 1e-3
    """More for returns near a million: metaworld computes parts of them in single precision."""
    success_steps: int = 0
    """Steps on which metaworld reports success: a check that saw none says little."""
    free_success_differs: int = 0
    """Steps on which only one of both reports success, running freely."""
    changed_constants: set[str] = field(default_factory=set)
    """Attributes that are declared constant and were not."""
    diverged: int = 0

    @property
    def worst(self) -> float:
        """The largest difference at metaworld's states."""
        return max(self.observation, *self.outputs.values())

    @property
    def agrees(self) -> bool:
        """Whether the task counts as ported."""
        return (
            self.worst <= 1e-9
            and self.free_first_steps <= 1e-6
            and self.free_return <= self.free_return_allowed
            and not self.free_success_differs
            and not self.changed_constants
            and not self.diverged
        )

    def describe(self) -> str:
        """Return the differences in one line."""
        terms = [f"{name} {error:.0e}" for name, error in self.outputs.items() if error > 1e-9]
        if self.observation > 1e-9:
            terms.insert(0, f"observation {self.observation:.0e}")
        if self.changed_constants:
            terms.append(f"not constant: {', '.join(sorted(self.changed_constants))}")
        if self.diverged:
            terms.append(f"{self.diverged} diverged")
        return (
            f"same state {self.worst:.0e}, free {self.free_first_steps:.0e} in "
            f"{FIRST_STEPS} steps, "
            f"{self.free_observation:.0e} in all, return {self.free_return:.0e}, success on "
            f"{self.success_steps} steps, differs on {self.free_success_differs}"
            + (f" <- {'; '.join(terms)}" if terms else "")
        )


Drive = Literal["policy", "noisy", "random"]
DRIVES: tuple[Drive, ...] = ("policy", "noisy", "random")
"""Who acts: metaworld's scripted policy, it and random actions by turns, or those alone."""
STRETCH = 10
"""Steps after which the noisy drive may change its mind."""


class Comparison:
    """One class of tasks in both simulators."""

    def __init__(self, name: str, reward_version: str, goal_size: int) -> None:
        self._name = name
        self._scene: MetaworldScene = scene(name, reward_version, goal_size)
        self._family = MetaworldFamily(reward_version, {name: goal_size})
        self._reference: Any = self._family.make(name).unwrapped
        self._engine = Engine(row.FORMAT, threads=1)

    def play(self, params: tuple[float, ...], drive: Drive, steps: int, parity: Parity) -> None:
        """Play one episode in both, and note the differences."""
        reference, engine = self._reference, self._engine
        self._family.assign(reference, WorldTask(self._name, 0, params))
        obs, _ = reference.reset()
        engine.place([(self._scene, self._scene.snapshot(params))] * 2)
        self._note_observation(obs, parity)
        constants = self._scene.capture(reference)
        policy, random = scripted_policy(self._name), np.random.default_rng(0)
        returns = np.zeros(2)
        for step in range(steps):
            action = random.uniform(-1, 1, 4)
            if step % STRETCH == 0:
                scripted = drive == "policy" or (drive == "noisy" and random.random() < 0.8)
            if scripted:
                seen = obs.copy()
                seen[36:39] = reference._get_pos_goal()
                with warnings.catch_warnings(action="ignore"):
                    action = np.clip(policy.get_action(seen), -1, 1)
            action = action.astype(np.float32)
            self._synchronize()
            engine.actions[:] = action
            engine.step()
            obs, reward, _, _, info = reference.step(action)
            returns += reward, engine.outputs[FREE, row.REWARD]
            # again in double precision: with the action's, metaworld rounds to 7 digits
            reward, info = reference.evaluate_state(obs, action.astype(np.float64))
            self._note_observation(obs, parity)
            self._note_outputs(reward, info, parity)
            error = np.abs(engine.rows[FREE, row.OBS : row.OBS + 39] - obs).max()
            parity.free_observation = _larger(parity.free_observation, error)
            if step < FIRST_STEPS:
                parity.free_first_steps = _larger(parity.free_first_steps, error)
            parity.success_steps += bool(info["success"])
            free_success = engine.outputs[FREE, row.SUCCESS]
            parity.free_success_differs += bool(info["success"]) != bool(free_success)
        parity.free_return = _larger(parity.free_return, abs(returns[1] - returns[0]))
        parity.free_return_allowed = max(parity.free_return_allowed, 1e-8 * abs(returns[0]))
        self._note_constants(constants, parity)

    def close(self) -> None:
        """Release the simulators."""
        self._engine.close()

    def _synchronize(self) -> None:
        reference, engine = self._reference, self._engine
        state = read_state(reference.model, reference.data)
        engine.states[SYNCED, : len(state)] = state
        engine.rows[SYNCED, row.FRAME : row.FRAME + row.FRAME_SIZE] = reference._prev_obs

    def _note_observation(self, obs: NDArray[np.float64], parity: Parity) -> None:
        error = np.abs(self._engine.rows[SYNCED, row.OBS : row.OBS + 39] - obs).max()
        parity.observation = _larger(parity.observation, error)
        parity.diverged += int(self._engine.diverged.sum())

    def _note_outputs(self, reward: float | int, info: dict[str, Any], parity: Parity) -> None:
        expected = {"reward": reward, **info}
        for name, value in zip(row.OUTPUT_NAMES, self._engine.outputs[SYNCED], strict=True):
            error = abs(float(expected[name]) - value)
            parity.outputs[name] = _larger(parity.outputs[name], error)

    def _note_constants(self, before: NDArray[np.float64], parity: Parity) -> None:
        after, task = self._scene.capture(self._reference), self._scene.task
        live = self._scene.sensed()
        for place, (source, size) in task.constants.items():
            same = np.array_equal(
                before[place : place + size], after[place : place + size], equal_nan=True
            )
            if not same and place not in live and place not in task.written:
                parity.changed_constants.add(str(source))


def _larger(known: float, error: float) -> float:
    """Return the larger difference; one that is not a number is infinite."""
    return math.inf if math.isnan(error) else max(known, float(error))


def scripted_policy(name: str) -> Any:
    """Return Meta-World's own policy for a task, whose `get_action` wants to see the goal."""
    from metaworld.policies import ENV_POLICY_MAP

    policy: Any = ENV_POLICY_MAP[name]  # declared as the abstract class
    return policy()
