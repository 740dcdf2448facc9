"""MuJoCo alone, for the benchmarks: worlds stepped with nothing read or written in between."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from meta_rl.rollouts.mujoco.compiling import call_with_3
from meta_rl.rollouts.mujoco.engine import Simulator
from meta_rl.rollouts.mujoco.memory import (
    STATE,
    mj_forward,
    mj_rne_post_constraint,
    mj_set_state,
    mj_step,
)
from meta_rl.rollouts.mujoco.row import Finish, WorldFormat
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot

FORWARD, FORCES = int(Finish.FORWARD), int(Finish.FORCES)


class BarePhysics:
    """MuJoCo alone: each thread plays whole worlds, one after another, in one `mjData` a class."""

    mb_per_world: float | None = None
    kb_per_further_world: float | None = None

    def __init__(
        self,
        worlds: Sequence[tuple[Scene, Snapshot]],
        actions: NDArray[Any],
        threads: int,
        world_format: WorldFormat,
    ) -> None:
        self.threads = threads
        self._format = world_format
        self._worlds = worlds
        self._actions = np.ascontiguousarray(actions.swapaxes(0, 1))  # (W, T, A)
        scenes = {each for each, _ in worlds}
        self._simulators = [{each: Simulator(each) for each in scenes} for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        self._play_world(0, 0, 1)  # compiles

    def play(self) -> float:
        """Return the seconds that a thread was busy, so that the wait for the last is no cost."""
        worlds = iter(range(len(self._worlds)))  # shared: whoever is free takes the next
        running = [self._pool.submit(self._work, worlds, n) for n in range(self.threads)]
        return sum(each.result() for each in running) / self.threads

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _work(self, worlds: Iterator[int], thread: int) -> float:
        started = time.perf_counter()
        for world in worlds:
            self._play_world(world, thread, self._actions.shape[1])
        return time.perf_counter() - started

    def _play_world(self, world: int, thread: int, steps: int) -> None:
        its_scene, snapshot = self._worlds[world]
        simulator = self._simulators[thread][its_scene]
        step_physics(
            snapshot.model.address,
            simulator.address,
            snapshot.state,
            simulator.functions[0],
            simulator.addresses,
            simulator.numbers,
            self._actions[world, :steps],
            self._format.substeps,
            int(self._format.finish),
        )


@numba.njit(nogil=True)
def step_physics(model, data, state, act, addresses, numbers, actions, substeps, finish):  # type: ignore[no-untyped-def]
    """Play one world from a state, and look at nothing."""
    mj_set_state(model, data, state.ctypes.data, STATE)  # type: ignore[call-overload]
    for t in range(len(actions)):
        call_with_3(act, addresses.ctypes.data, numbers.ctypes.data, actions[t].ctypes.data)
        for _ in range(substeps):
            mj_step(model, data)
        if finish == FORWARD:
            mj_forward(model, data)
        elif finish == FORCES:
            mj_rne_post_constraint(model, data)
