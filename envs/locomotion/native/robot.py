"""How robots act and sense in MuJoCo's C library: the same compiled code for all of them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from envs.locomotion.native.observation import (
    CONTROLS,
    PIECE_BOUNDS,
    PIECE_COUNT,
    PLAN_SIZE,
    observe_robot,
)
from meta_rl.rollouts.mujoco.compiling import (
    ACT,
    OBSERVE,
    Action,
    Addresses,
    Row,
    callback,
    write_double,
)

CONTROL_ADDRESS = PLAN_SIZE
"""Place in the addresses of a binding, which begin with the robot's plan."""


@dataclass(frozen=True)
class Piece:
    """A part of an observation: numbers of one field of `mjData`."""

    field: str
    start: int = 0
    """The first number of the field, flat."""
    bound: float = float("inf")
    """Numbers are clipped to this and its negative."""


@cache
def functions() -> tuple[Any, Any]:
    """Return compiled `act` and `observe`, which all robots share."""
    return callback(act, ACT), callback(observe, OBSERVE)


def act(addresses: Addresses, numbers: Row, action: Action) -> None:
    """Set the controls: the action as fractions of their bounds."""
    bounds = PIECE_BOUNDS + addresses[PIECE_COUNT]
    control = addresses[CONTROL_ADDRESS]
    for number in range(addresses[CONTROLS]):
        write_double(control + 8 * number, action[number] * numbers[bounds + number])


def observe(addresses: Addresses, numbers: Row, action: Action, x: Row) -> None:
    """Write all of the row but what is sensed and the target."""
    observe_robot(addresses, numbers, x)
