"""Steps worlds of one or several scenes on a given number of threads."""

import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import mujoco
import numpy as np
from numpy.typing import NDArray

from meta_rl.rollouts.mujoco.compiling import (
    call_with_2,
    call_with_3,
    call_with_4,
    compiled,
    read_double,
    read_int32,
    take_number,
    write_int32,
)
from meta_rl.rollouts.mujoco.memory import (
    DIVERGED,
    STATE,
    WARNING_BYTES,
    WARNING_NUMBER,
    load_functions,
    mj_forward,
    mj_get_state,
    mj_reset_data,
    mj_rne_post_constraint,
    mj_set_state,
    mj_step,
    offsets,
)
from meta_rl.rollouts.mujoco.row import Finish, WorldFormat
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot, field_address
from meta_rl.rollouts.mujoco.threads import Helper

logger = logging.getLogger(__name__)

Array: TypeAlias = NDArray[Any]

FORWARD, FORCES = int(Finish.FORWARD), int(Finish.FORCES)


class Simulator:
    """One `mjData` of one scene, for one thread, and what its compiled code indexes."""

    def __init__(self, scene: Scene) -> None:
        self._data = mujoco.MjData(scene.model)  # the addresses below are of its parts
        self.address = int(self._data._address)
        self.warnings = self.address + offsets().warnings
        binding = scene.bind(self._data)
        self.addresses, self.numbers = binding.addresses, binding.numbers
        self.copies = np.array(
            [
                [field_address(self._data, place.field, place.start), where, place.size]
                for where, place in scene.sensed().items()
            ],
            dtype=np.int64,
        ).reshape(-1, 3)
        code = scene.code
        self.functions = np.array([code.act, code.observe, code.reward])


class Workplace:
    """Simulators of some scenes, a set for each thread, as arrays that compiled code indexes.

    Axes: R threads, C scenes. Where scenes differ in how much they have, zeros fill up.
    """

    def __init__(self, simulators: Sequence[Sequence[Simulator]]) -> None:
        def stack(name: str) -> Array:
            return np.array([[getattr(each, name) for each in row] for row in simulators])

        def fill(name: str) -> Array:
            arrays = [[getattr(each, name) for each in row] for row in simulators]
            most = max(len(array) for row in arrays for array in row)

            def padded(array: Array) -> Array:
                return np.pad(array, [(0, most - len(array)), *[(0, 0)] * (array.ndim - 1)])

            return np.array([[padded(array) for array in row] for row in arrays])

        self.arrays = (
            stack("address"),
            stack("warnings"),
            stack("functions"),
            fill("addresses"),
            fill("numbers"),
            fill("copies"),
        )


class Engine:
    """W worlds, each in a scene, as rows of arrays.

    A world is nothing but its rows: threads load them into a simulator, step, and write them
    back, so results do not depend on how many threads there are. A thread that is free takes the
    next world, by an atomic counter. Memory: the scenes' models, one `mjData` for each scene and
    thread, and a few kilobytes for each world and each goal.
    """

    def __init__(self, world_format: WorldFormat, threads: int) -> None:
        load_functions()
        self._format = world_format
        self._simulators: list[dict[Scene, Simulator]] = [{} for _ in range(threads)]
        self._helpers = self._hired()
        self._snapshots: list[Snapshot] = []
        self._next_world = np.zeros(1, dtype=np.int64)

    def place(self, worlds: Sequence[tuple[Scene, Snapshot]], seeds: Sequence[int] = ()) -> None:
        """Make as many worlds as given, each at the beginning of an episode.

        Args:
            seeds: A seed for each world's own chance, needed where a scene starts at random.
        """
        if not self._helpers:
            self._helpers = self._hired()
        self._scenes = list(dict.fromkeys(scene for scene, _ in worlds))
        self._snapshots = [snapshot for _, snapshot in worlds]
        self._chance = {
            world: (scene, np.random.default_rng(seeds[world]))
            for world, (scene, _) in enumerate(worlds)
            if scene.starts_at_random
        }
        count = len(worlds)
        states = max(len(snapshot.state) for snapshot in self._snapshots)
        self.states = np.zeros((count, states))
        self.rows = np.zeros((count, max(scene.row.size for scene in self._scenes)))
        self.outputs = np.zeros((count, self._format.outputs))
        self.diverged = np.zeros(count, dtype=np.bool_)
        self.actions = np.zeros((count, self._format.action_size), dtype=np.float32)
        self.frozen = np.zeros(count, dtype=np.bool_)
        """Worlds that a step leaves as they are."""
        self._models = np.array([snapshot.model.address for snapshot in self._snapshots])
        number = {scene: place for place, scene in enumerate(self._scenes)}
        self._scene_of_world = np.array([number[scene] for scene, _ in worlds])
        self._equip()
        self.restore(np.arange(count))
        started = time.perf_counter()
        self._next_world[0] = count
        self._work(0)  # compiles
        if (took := time.perf_counter() - started) > 0.5:
            logger.info("compiled the simulator's loop in %.1f s", took)

    def change(self, world: int, scene: Scene, snapshot: Snapshot, restarts: bool) -> None:
        """Turn a world into another task.

        Args:
            restarts: Its next episode begins before its next step, by `restore`. Otherwise it goes
                on in the same scene: what the task's model and constants are is the new task's,
                what moves is where it was.
        """
        if scene not in self._scenes:
            self._scenes.append(scene)
            self.states = _widened(self.states, len(snapshot.state))
            self.rows = _widened(self.rows, scene.row.size)
            self._equip()
        self._snapshots[world] = snapshot
        self._models[world] = snapshot.model.address
        self._scene_of_world[world] = self._scenes.index(scene)
        if world in self._chance:
            self._chance[world] = scene, self._chance[world][1]
        if not restarts:
            for where, size in scene.constant_places():
                self.rows[world, where : where + size] = snapshot.row[where : where + size]

    def _equip(self) -> None:
        """Give every thread a simulator of every scene."""
        for simulators in self._simulators:
            for scene in self._scenes:
                if scene not in simulators:
                    simulators[scene] = Simulator(scene)
        self._workplace = Workplace(
            [[simulators[scene] for scene in self._scenes] for simulators in self._simulators]
        )

    def restore(self, worlds: NDArray[np.int64]) -> None:
        """Put worlds to the beginning of an episode: their snapshots, moved by their chance.

        Chance is drawn by NumPy, world by world, as Gymnasium's environments draw it.
        """
        for world in worlds.tolist():
            snapshot = self._snapshots[world]
            state = self.states[world, : len(snapshot.state)]
            state[:] = snapshot.state
            self.rows[world, : len(snapshot.row)] = snapshot.row
            if world in self._chance:
                scene, random = self._chance[world]
                scene.draw_start(state, random)
        moved = np.array([world for world in worlds.tolist() if world in self._chance], np.int64)
        if len(moved):
            begin_worlds(
                moved,
                self._scene_of_world,
                self._models,
                *self._workplace.arrays,
                self.actions,
                self.states,
                self.rows,
            )

    def step(self) -> None:
        """Step all worlds that are not frozen once, with `actions`."""
        self._next_world[0] = 0
        try:
            for helper in self._helpers:
                helper.begin()
            self._work(0)
            for helper in self._helpers:
                helper.wait()
        except BaseException:
            # Who interrupts may go on: no thread may still be at work, or be waited for in vain.
            self._dismiss()
            self._helpers = self._hired()
            raise

    def close(self) -> None:
        """End the threads and release the worlds; `place` makes others."""
        self._dismiss()
        self._simulators = [{} for _ in self._simulators]

    def _hired(self) -> list[Helper]:
        """Return a helper for each thread but this one."""
        threads = len(self._simulators)
        return [Helper(partial(self._work, thread)) for thread in range(1, threads)]

    def _dismiss(self) -> None:
        """End the threads; without them, this one does all."""
        helpers, self._helpers = self._helpers, []
        for helper in helpers:
            helper.end()

    def _work(self, thread: int) -> None:
        step_worlds(
            thread,
            self._next_world,
            self._scene_of_world,
            self._models,
            self._format.substeps,
            int(self._format.finish),
            self._format.finite.start,
            self._format.finite.stop,
            *self._workplace.arrays,
            self.frozen,
            self.actions,
            self.states,
            self.rows,
            self.outputs,
            self.diverged,
        )


def _widened(rows: Array, width: int) -> Array:
    """Return rows that are at least so wide, with zeros where there was nothing."""
    return np.pad(rows, [(0, 0), (0, max(0, width - rows.shape[1]))])


@compiled
def step_worlds(
    thread: int,
    next_world: Array,
    scene_of_world: Array,
    models: Array,
    substeps: int,
    finish: int,
    finite_start: int,
    finite_stop: int,
    data_addresses: Array,
    warning_addresses: Array,
    all_functions: Array,
    all_addresses: Array,
    all_numbers: Array,
    all_copies: Array,
    frozen: Array,
    actions: Array,
    states: Array,
    rows: Array,
    outputs: Array,
    diverged: Array,
) -> None:
    """Step worlds until none is left."""
    while True:
        world = take_number(next_world.ctypes.data)
        if world >= len(frozen):
            break
        if frozen[world]:
            continue
        scene = scene_of_world[world]
        data, warnings = data_addresses[thread, scene], warning_addresses[thread, scene]
        functions = all_functions[thread, scene]
        addresses = all_addresses[thread, scene].ctypes.data
        numbers = all_numbers[thread, scene].ctypes.data
        model = models[world]
        state, action = states[world].ctypes.data, actions[world].ctypes.data
        mj_set_state(model, data, state, STATE)
        for warning in DIVERGED:
            write_int32(warnings + warning * WARNING_BYTES + WARNING_NUMBER, 0)
        call_with_3(functions[0], addresses, numbers, action)
        for _ in range(substeps):
            mj_step(model, data)
        if finish == FORWARD:
            mj_forward(model, data)
        elif finish == FORCES:
            mj_rne_post_constraint(model, data)
        mj_get_state(model, data, state, STATE)

        row = rows[world]
        sense(all_copies[thread, scene], row)
        call_with_4(functions[1], addresses, numbers, action, row.ctypes.data)
        call_with_2(functions[2], row.ctypes.data, outputs[world].ctypes.data)

        bad = not math.isfinite(outputs[world, 0])
        for warning in DIVERGED:
            bad |= read_int32(warnings + warning * WARNING_BYTES + WARNING_NUMBER) != 0
        for place in range(finite_start, finite_stop):
            bad |= not math.isfinite(row[place])
        diverged[world] = bad


@compiled
def begin_worlds(
    worlds: Array,
    scene_of_world: Array,
    models: Array,
    data_addresses: Array,
    warning_addresses: Array,
    all_functions: Array,
    all_addresses: Array,
    all_numbers: Array,
    all_copies: Array,
    actions: Array,
    states: Array,
    rows: Array,
) -> None:
    """Work out what follows from the states that worlds begin in, and observe them.

    Nothing of another world may be left: what no step has worked out yet, such as forces, is zero.
    """
    for number in range(len(worlds)):
        world = worlds[number]
        scene = scene_of_world[world]
        data, model = data_addresses[0, scene], models[world]
        state, action = states[world].ctypes.data, actions[world].ctypes.data
        mj_reset_data(model, data)
        mj_set_state(model, data, state, STATE)
        mj_forward(model, data)
        mj_get_state(model, data, state, STATE)
        sense(all_copies[0, scene], rows[world])
        addresses = all_addresses[0, scene].ctypes.data
        numbers = all_numbers[0, scene].ctypes.data
        observe = all_functions[0, scene, 1]
        call_with_4(observe, addresses, numbers, action, rows[world].ctypes.data)


@compiled
def sense(copies: Array, row: Array) -> None:
    """Copy what a row gets from `mjData`."""
    for number in range(len(copies)):
        for place in range(copies[number, 2]):
            row[copies[number, 1] + place] = read_double(copies[number, 0] + 8 * place)
