"""The one place that knows where MuJoCo keeps things.

Compiled code needs addresses: of MuJoCo's functions, of arrays in `mjData`, and of the few
members of its struct that Python does not show. Those are found by looking for known values in a
small model's structs, and checked on a second one, so that they follow MuJoCo's version.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import mujoco
import numpy as np
from numba import types
from numpy.typing import NDArray

from meta_rl.core.errors import UserError

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
"""All that MuJoCo's next step depends on, warm start, controls and mocap poses included."""
DIVERGED = tuple(
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
)
"""Warnings upon which MuJoCo resets a world that it finds unstable."""
LARGE_FIELDS = 1_000_000
"""Bytes above which a model's array holds shapes and pictures, which no reset writes."""

_pointer = types.intp


def _function(name: str, *arguments: Any) -> Any:
    """Return one of MuJoCo's functions for compiled code to call."""
    signature: Any = types.void
    return types.ExternalFunction(name, signature(*arguments))


mj_step = _function("mj_step", _pointer, _pointer)
mj_forward = _function("mj_forward", _pointer, _pointer)
mj_reset_data = _function("mj_resetData", _pointer, _pointer)
mj_rne_post_constraint = _function("mj_rnePostConstraint", _pointer, _pointer)
mj_set_state = _function("mj_setState", _pointer, _pointer, _pointer, types.uint32)
mj_get_state = _function("mj_getState", _pointer, _pointer, _pointer, types.uint32)


@dataclass(frozen=True)
class Offsets:
    """Where, in bytes from its start, `mjData` keeps what Python does not show the address of."""

    contact_count: int
    contacts: int
    constraint_force: int
    warnings: int
    contact: "ContactOffsets"


@dataclass(frozen=True)
class ContactOffsets:
    """Where, in bytes from its start, `mjContact` keeps what touch is sensed by."""

    geom1: int
    geom2: int
    force_index: int
    """`efc_address`: where in `efc_force` a contact's first force is, or -1."""
    size: int
    """Bytes of the whole struct."""


LARGEST_STRUCT_BYTES = 262_144
"""How far to look into `mjModel` or `mjData`, whose solver statistics alone take 160 kB."""
WARNING_BYTES = 8
WARNING_NUMBER = 4


def load_functions() -> None:
    """Make MuJoCo's functions known to the compiler, and its warnings silent.

    Warnings are counted in `mjData`; MuJoCo's default also writes each to a file in the working
    directory.
    """
    found = sorted(Path(mujoco.__file__).parent.glob("libmujoco*.*"))
    if not found:
        raise UserError(
            "MuJoCo's library is not found on this system, so its worlds cannot be stepped by "
            "compiled code; choose another simulator of the task family if it has one"
        )
    path = found[0]
    llvmlite.binding.load_library_permanently(str(path))
    library = ctypes.CDLL(str(path))
    handler = ctypes.c_void_p.in_dll(library, "mju_user_warning")
    handler.value = ctypes.cast(_silence, ctypes.c_void_p).value


def _be_silent(message: bytes) -> None:
    pass


_silence = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_be_silent)


def state_size(model: mujoco.MjModel) -> int:
    """Return how many numbers the state of a world has."""
    return int(mujoco.mj_stateSize(model, STATE))


def read_state(model: mujoco.MjModel, data: mujoco.MjData) -> NDArray[np.float64]:
    """Return the state of a world."""
    state = np.empty(state_size(model))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def coordinates(
    model: mujoco.MjModel, state: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return views of the positions (`qpos`) and speeds (`qvel`) in the state of a world."""
    start = int(mujoco.mj_stateSize(model, int(mujoco.mjtState.mjSTATE_TIME)))
    middle = start + model.nq
    return state[start:middle], state[middle : middle + model.nv]


def small_fields(model: mujoco.MjModel) -> dict[str, NDArray[Any]]:
    """Return views of those arrays of a model that a reset may write."""
    fields = {
        name: getattr(model, name)
        for name in dir(model)
        if not name.startswith("_") and isinstance(getattr(model, name), np.ndarray)
    }
    return {name: field for name, field in fields.items() if 0 < field.nbytes < LARGE_FIELDS}


class TaskModel:
    """A model that differs from its scene's in a few arrays and shares all others.

    It is a copy of the `mjModel` struct, some kilobytes, with the pointers of those arrays bent.
    MuJoCo's stepping functions only read it, so any number of threads may use it.
    """

    def __init__(self, model: mujoco.MjModel, changed: Mapping[str, NDArray[Any]]) -> None:
        self._scene_model = model  # the struct points into it
        self.changed = dict(changed)
        """The arrays that differ."""
        # the last two members are `names_map` and `paths`; in later versions, another two
        last_but_one: Any = getattr(model, "mapD2M", model.names_map)
        size = _first_offset(model._address, last_but_one.ctypes.data, 0) + 16
        self._struct = (ctypes.c_char * size).from_buffer_copy(
            (ctypes.c_char * size).from_address(model._address)
        )
        self.address = ctypes.addressof(self._struct)
        for name, values in self.changed.items():
            assert values.flags.c_contiguous
            offset = _last_offset(model._address, getattr(model, name).ctypes.data, 0, size)
            ctypes.c_uint64.from_address(self.address + offset).value = values.ctypes.data


@cache
def offsets() -> Offsets:
    """Find the offsets in `mjData`, from two worlds with different numbers of contacts."""
    first, second = _find_offsets(balls=1), _find_offsets(balls=2)
    assert first == second, (first, second)
    return first


def _find_offsets(balls: int) -> Offsets:
    bodies = "".join(
        f'<body pos="{ball} 0 .09"><freejoint/><geom size=".1"/></body>' for ball in range(balls)
    )
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><geom type="plane" size="9 9 9"/>{bodies}</worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    assert data.ncon == balls
    contact = data.contact
    start = contact.dist.ctypes.data
    assert contact.dist.itemsize == 8 and contact.geom1.dtype == np.int32
    members = [contact.geom1, contact.geom2, contact.efc_address]
    geom1, geom2, force_index = (int(each.ctypes.data) - start for each in members)
    size = force_index // 8 * 8 + 8  # it is the last member, of 4 bytes
    assert balls == 1 or contact.dist.strides == (size,)
    assert data.warning.number.strides == (WARNING_BYTES,)
    warnings = data.warning.number.ctypes.data - WARNING_NUMBER - data._address
    force = _first_offset(data._address, data.efc_force.ctypes.data, warnings // 8 * 8)
    counts = (data.ncon, data.ne, data.nf, data.nl, data.nefc)  # neighbours in the struct
    (count,) = [
        place
        for place in range(warnings, force, 4)
        if counts == tuple((ctypes.c_int32 * 5).from_address(data._address + place))
    ]
    return Offsets(
        contact_count=count,
        contacts=_last_offset(data._address, start, warnings // 8 * 8, force),
        constraint_force=force,
        warnings=warnings,
        contact=ContactOffsets(geom1, geom2, force_index, size),
    )


def _first_offset(struct: int, pointer: int, start: int) -> int:
    """Return where a struct first holds a pointer that it is known to hold, in bytes."""
    for offset in range(start, LARGEST_STRUCT_BYTES, 8):
        if ctypes.c_uint64.from_address(struct + offset).value == pointer:
            return offset
    raise UserError(
        f"worlds of this MuJoCo ({mujoco.__version__}) cannot be stepped by compiled code: its "
        f"structs are not known; use the version in constraints.txt, or another simulator of the "
        f"task family if it has one"
    )


def _last_offset(struct: int, pointer: int, start: int, end: int) -> int:
    """Return where a struct holds the pointer of an array that is not empty, in bytes.

    Empty arrays hold the address of the next one that is not, so the last match is meant.
    """
    memory = (ctypes.c_uint64 * ((end - start) // 8)).from_address(struct + start)
    words = np.frombuffer(memoryview(memory), np.uint64)
    return start + int(np.flatnonzero(words == pointer)[-1]) * 8
