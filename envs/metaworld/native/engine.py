"""Steps worlds of one or several classes on a given number of threads."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.metaworld.native.compiling import (
    call_with_row,
    call_with_rows,
    compiled,
    multiply_add,
    read_address,
    read_double,
    read_int32,
    take_number,
    write_double,
    write_int32,
)
from envs.metaworld.native.mujoco_memory import (
    CONTACT_BYTES,
    CONTACT_FORCE_INDEX,
    CONTACT_GEOM1,
    CONTACT_GEOM2,
    DIVERGED,
    STATE,
    WARNING_BYTES,
    WARNING_NUMBER,
    load_functions,
    mj_forward,
    mj_get_state,
    mj_set_state,
    mj_step,
    offsets,
)
from envs.metaworld.native.row import (
    ACTION,
    FRAME,
    FRAME_SIZE,
    HAND,
    LEFT_PAD,
    OBJECT,
    OBS,
    OPENING,
    OUTPUTS,
    RIGHT_PAD,
    TCP,
    TOUCHING,
    Source,
    body,
    site,
)
from envs.metaworld.native.scene import Scene, Snapshot

logger = logging.getLogger(__name__)

SUBSTEPS = 5
QUATERNION_FIXED, QUATERNION_COPIED, QUATERNION_FROM_MATRIX = 0, 1, 2
OBJECT_SIZE = 7  # position and quaternion


class Simulator:
    """One `mjData` of one scene, for one thread, and where in memory its parts are."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._data = mujoco.MjData(scene.model)
        self.address = self._data._address
        address = self._address_of
        self.parts = np.array(
            [
                address(body("hand")),
                address(body("rightclaw")),
                address(body("leftclaw")),
                address(site("rightEndEffector")),
                address(site("leftEndEffector")),
                address(body("leftpad")),
                address(body("rightpad")),
                self._data.mocap_pos.ctypes.data,
                self._data.mocap_quat.ctypes.data,
                self._data.ctrl.ctypes.data,
            ]
        )
        self.copies = np.array(
            [
                [self._field_address(place.field, place.start), where, place.size]
                for where, place in scene.sensed().items()
            ],
            dtype=np.int64,
        ).reshape(-1, 3)
        self.objects = np.array(
            [
                [address(each.position), *self._quaternion(each.quaternion)]
                for each in scene.task.objects
            ]
        )
        self.object_numbers = np.array(
            [
                [
                    *each.offset,
                    *(each.quaternion if isinstance(each.quaternion, tuple) else [0.0] * 4),
                ]
                for each in scene.task.objects
            ]
        )
        self.touch_geoms = np.array([-1, -1, -1])
        if scene.task.senses_touch:
            pads = [scene.model.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]
            self.touch_geoms = np.array([*pads, scene.env._get_id_main_object()])
        self.mocap_bounds = np.stack([scene.env.mocap_low, scene.env.mocap_high])
        self.functions = np.array([scene.observe_address, scene.reward_address])

    def _address_of(self, source: Source) -> int:
        place = self._scene.place(source)
        return self._field_address(place.field, place.start)

    def _field_address(self, field: str, start: int) -> int:
        array = getattr(self._data, field)
        return int(array.ctypes.data) + start * int(array.itemsize)

    def _quaternion(self, quaternion: Any) -> tuple[int, int]:
        if isinstance(quaternion, tuple):
            return 0, QUATERNION_FIXED
        kind = QUATERNION_COPIED if quaternion.size == 4 else QUATERNION_FROM_MATRIX
        return self._address_of(quaternion), kind


class Workplace:
    """Simulators of some scenes, a set for each thread, as arrays that compiled code indexes.

    Axes: R threads, C scenes. Where scenes differ in how much they have, rows of zeros fill up.
    """

    def __init__(self, simulators: Sequence[Sequence[Simulator]]) -> None:
        def stack(name: str) -> NDArray[Any]:
            return np.array([[getattr(each, name) for each in row] for row in simulators])

        def fill(name: str) -> NDArray[Any]:
            arrays = [[getattr(each, name) for each in row] for row in simulators]
            most = max(len(array) for row in arrays for array in row)
            return np.array(
                [
                    [np.pad(array, ((0, most - len(array)), (0, 0))) for array in row]
                    for row in arrays
                ]
            )

        self.arrays = (
            stack("address"),
            stack("parts"),
            fill("copies"),
            fill("objects"),
            fill("object_numbers"),
            np.array([[len(each.objects) for each in row] for row in simulators]),
            stack("touch_geoms"),
            stack("mocap_bounds"),
            stack("functions"),
        )


class Helper:
    """A thread that does the same work whenever it is told to.

    Two locks hand over and back several times faster than an executor's queue and futures do,
    which counts where few worlds make a step short.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._begin, self._done = threading.Lock(), threading.Lock()
        self._begin.acquire()
        self._done.acquire()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Let the work begin; `wait` must follow."""
        self._begin.release()

    def wait(self) -> None:
        """Wait until the work is done."""
        self._done.acquire()

    def end(self) -> None:
        """End the thread."""
        self._ending = True
        self._begin.acquire(blocking=False)  # where an interrupt came between `begin` and the work
        self._begin.release()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._begin.acquire()
            if self._ending:
                return
            try:
                self._work()
            finally:
                self._done.release()


class Engine:
    """W worlds, each in a scene, as rows of arrays.

    A world is nothing but its rows: threads load them into a simulator, step, and write them
    back, so results do not depend on how many threads there are. A thread that is free takes the
    next world, by an atomic counter. Memory: the scenes' models, one `mjData` for each scene and
    thread, and a few kilobytes for each world and each goal.
    """

    def __init__(self, threads: int) -> None:
        load_functions()
        self._threads = threads
        self._simulators: list[dict[Scene, Simulator]] = [{} for _ in range(threads)]
        self._helpers = [Helper(partial(self._work, thread)) for thread in range(1, threads)]
        self._snapshots: list[Snapshot] = []
        self._next_world = np.zeros(1, dtype=np.int64)
        self._offsets = np.array(
            [
                offsets().contact_count,
                offsets().contacts,
                offsets().constraint_force,
                offsets().warnings,
            ]
        )

    def place(self, worlds: Sequence[tuple[Scene, Snapshot]]) -> None:
        """Make as many worlds as given, each as a snapshot has it."""
        scenes = list(dict.fromkeys(scene for scene, _ in worlds))
        self._snapshots = [snapshot for _, snapshot in worlds]
        count = len(worlds)
        states = max(len(snapshot.state) for snapshot in self._snapshots)
        self.states = np.zeros((count, states))
        self.rows = np.zeros((count, max(scene.task.size for scene in scenes)))
        self.outputs = np.zeros((count, OUTPUTS))
        self.diverged = np.zeros(count, dtype=np.bool_)
        self.actions = np.zeros((count, 4), dtype=np.float32)
        self.frozen = np.zeros(count, dtype=np.bool_)
        """Worlds that a step leaves as they are."""
        self._models = np.array([snapshot.model.address for snapshot in self._snapshots])
        number = {scene: place for place, scene in enumerate(scenes)}
        self._scene_of_world = np.array([number[scene] for scene, _ in worlds])
        for simulators in self._simulators:
            for scene in scenes:
                if scene not in simulators:
                    simulators[scene] = Simulator(scene)
        self._workplace = Workplace(
            [[simulators[scene] for scene in scenes] for simulators in self._simulators]
        )
        self.restore(np.arange(count))
        started = time.perf_counter()
        self._next_world[0] = count
        self._work(0)  # compiles
        if (took := time.perf_counter() - started) > 0.5:
            logger.info("compiled the simulator's loop in %.1f s", took)

    def restore(self, worlds: NDArray[np.int64]) -> None:
        """Put worlds back to their snapshots."""
        for world in worlds:
            snapshot = self._snapshots[world]
            self.states[world, : len(snapshot.state)] = snapshot.state
            self.rows[world, : len(snapshot.row)] = snapshot.row

    def step(self) -> None:
        """Step all worlds that are not frozen once, with `actions`."""
        self._next_world[0] = 0
        for helper in self._helpers:
            helper.begin()
        self._work(0)
        for helper in self._helpers:
            helper.wait()

    def close(self) -> None:
        """End the threads and release the worlds."""
        for helper in self._helpers:
            helper.end()
        self._helpers = []
        self._simulators = []

    def _work(self, thread: int) -> None:
        step_worlds(
            thread,
            self._next_world,
            self._scene_of_world,
            self._models,
            self._offsets,
            *self._workplace.arrays,
            self.frozen,
            self.actions,
            self.states,
            self.rows,
            self.outputs,
            self.diverged,
        )


@compiled
def step_worlds(
    thread,
    next_world,
    scene_of_world,
    models,
    offsets,
    data_addresses,
    all_parts,
    all_copies,
    all_objects,
    all_object_numbers,
    object_counts,
    all_touch_geoms,
    all_mocap_bounds,
    all_functions,
    frozen,
    actions,
    states,
    rows,
    outputs,
    diverged,
):
    """Step worlds until none is left: `SawyerXYZEnv.step`, in its order."""
    while True:
        world = take_number(next_world.ctypes.data)
        if world >= len(frozen):
            break
        if frozen[world]:
            continue
        scene = scene_of_world[world]
        data = data_addresses[thread, scene]
        parts = all_parts[thread, scene]
        functions = all_functions[thread, scene]
        model = models[world]
        state = states[world].ctypes.data
        mj_set_state(model, data, state, STATE)
        warnings = data + offsets[3]
        for warning in DIVERGED:
            write_int32(warnings + warning * WARNING_BYTES + WARNING_NUMBER, 0)
        act(parts, all_mocap_bounds[thread, scene], actions[world])
        for _ in range(SUBSTEPS):
            mj_step(model, data)
        mj_forward(model, data)
        mj_get_state(model, data, state, STATE)

        x = rows[world]
        copies, touch_geoms = all_copies[thread, scene], all_touch_geoms[thread, scene]
        sense(data, offsets, parts, copies, touch_geoms, x)
        for axis in range(4):
            x[ACTION + axis] = actions[world, axis]
        objects = all_objects[thread, scene, : object_counts[thread, scene]]
        observe(parts, objects, all_object_numbers[thread, scene], functions[0], x)
        call_with_rows(functions[1], x.ctypes.data, outputs[world].ctypes.data)

        bad = not math.isfinite(outputs[world, 0])
        for warning in DIVERGED:
            bad |= read_int32(warnings + warning * WARNING_BYTES + WARNING_NUMBER) != 0
        for place in range(FRAME, FRAME + FRAME_SIZE):
            bad |= not math.isfinite(x[place])
        diverged[world] = bad


@compiled
def act(parts, mocap_bounds, action):
    """Set the hand's target and the fingers' controls, in single precision like metaworld."""
    mocap_pos, mocap_quat, ctrl = parts[7], parts[8], parts[9]
    for axis in range(3):
        moved = read_double(mocap_pos + 8 * axis) + np.float64(action[axis] * np.float32(0.01))
        bounded = min(max(moved, mocap_bounds[0, axis]), mocap_bounds[1, axis])
        write_double(mocap_pos + 8 * axis, bounded)
    for axis in range(4):
        write_double(mocap_quat + 8 * axis, 1.0 - axis % 2)
    write_double(ctrl, np.float64(action[3]))
    write_double(ctrl + 8, np.float64(-action[3]))


@compiled
def sense(data, offsets, parts, copies, touch_geoms, x):
    """Write what the row holds of the simulator."""
    for axis in range(3):
        right_tip, left_tip = read_double(parts[3] + 8 * axis), read_double(parts[4] + 8 * axis)
        x[TCP + axis] = (right_tip + left_tip) / 2.0
        x[LEFT_PAD + axis] = read_double(parts[5] + 8 * axis)
        x[RIGHT_PAD + axis] = read_double(parts[6] + 8 * axis)
    for number in range(len(copies)):
        for place in range(copies[number, 2]):
            x[copies[number, 1] + place] = read_double(copies[number, 0] + 8 * place)
    if touch_geoms[2] >= 0:
        left = press_force(data, offsets, touch_geoms[0], touch_geoms[2])
        right = press_force(data, offsets, touch_geoms[1], touch_geoms[2])
        x[TOUCHING] = 1.0 if left > 0.0 and right > 0.0 else 0.0


@compiled
def press_force(data, offsets, pad, thing):
    """Return the force between two geoms as `SawyerXYZEnv.touching_object` sums it."""
    contact = read_address(data + offsets[1])
    force = read_address(data + offsets[2])
    constraints = read_int32(data + offsets[0] + 16)  # `nefc` comes four counts after `ncon`
    total = 0.0
    for _ in range(read_int32(data + offsets[0])):
        geom1 = read_int32(contact + CONTACT_GEOM1)
        geom2 = read_int32(contact + CONTACT_GEOM2)
        if (geom1 == pad and geom2 == thing) or (geom1 == thing and geom2 == pad):
            index = read_int32(contact + CONTACT_FORCE_INDEX)
            if index < 0:
                index += constraints  # -1 is a contact without force; numpy reads the last one
            total += read_double(force + 8 * index)
        contact += CONTACT_BYTES
    return total


@compiled
def observe(parts, objects, object_numbers, observe_function, x):
    """Write the observation: this frame, the one before, and zeros for the goal.

    The fingers' distance is rounded as OpenBLAS does in `numpy.linalg.norm`: a scripted policy that
    sees a last bit differ may act otherwise, and grasp or miss.
    """
    for place in range(FRAME_SIZE):
        x[OBS + FRAME_SIZE + place] = x[FRAME + place]
    squared = 0.0
    for axis in range(3):
        x[HAND + axis] = read_double(parts[0] + 8 * axis)
        apart = read_double(parts[1] + 8 * axis) - read_double(parts[2] + 8 * axis)
        squared = multiply_add(apart, apart, squared)
    x[OPENING] = min(max(math.sqrt(squared) / 0.1, 0.0), 1.0)
    for number in range(len(objects)):
        place = OBJECT + number * OBJECT_SIZE
        for axis in range(3):
            position = read_double(objects[number, 0] + 8 * axis)
            x[place + axis] = position + object_numbers[number, axis]
        orientation, kind = objects[number, 1], objects[number, 2]
        if kind == QUATERNION_FROM_MATRIX:
            write_scipy_quaternion(orientation, x, place + 3)
        else:
            for axis in range(4):
                fixed = object_numbers[number, 3 + axis]
                copied = kind == QUATERNION_COPIED
                x[place + 3 + axis] = read_double(orientation + 8 * axis) if copied else fixed
    if observe_function != 0:
        call_with_row(observe_function, x.ctypes.data)
    for place in range(FRAME_SIZE):
        x[FRAME + place] = x[OBS + place]
    for frame in (OBS, OBS + FRAME_SIZE):  # to `SawyerXYZEnv._HAND_SPACE`; the rest has no bounds
        x[frame] = min(max(x[frame], -0.525), 0.525)
        x[frame + 1] = min(max(x[frame + 1], 0.348), 1.025)
        x[frame + 2] = min(max(x[frame + 2], -0.0525), 0.7)


@compiled
def write_scipy_quaternion(matrix, x, place):
    """Write what `scipy.spatial.transform.Rotation.from_matrix(...).as_quat()` gives, w last."""
    trace = read_double(matrix) + read_double(matrix + 32) + read_double(matrix + 64)
    largest, choice = trace, 3
    for axis in range(2, -1, -1):
        diagonal = read_double(matrix + 32 * axis)
        if diagonal >= largest:
            largest, choice = diagonal, axis
    if choice == 3:
        x[place] = read_double(matrix + 56) - read_double(matrix + 40)
        x[place + 1] = read_double(matrix + 16) - read_double(matrix + 48)
        x[place + 2] = read_double(matrix + 24) - read_double(matrix + 8)
        x[place + 3] = 1.0 + trace
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        x[place + i] = 1.0 - trace + 2.0 * read_double(matrix + 32 * i)
        x[place + j] = read_double(matrix + 24 * j + 8 * i) + read_double(matrix + 24 * i + 8 * j)
        x[place + k] = read_double(matrix + 24 * k + 8 * i) + read_double(matrix + 24 * i + 8 * k)
        x[place + 3] = read_double(matrix + 24 * k + 8 * j) - read_double(matrix + 24 * j + 8 * k)
    squared = 0.0
    for axis in range(4):
        squared += x[place + axis] * x[place + axis]
    norm = math.sqrt(squared)
    for axis in range(4):
        x[place + axis] /= norm
