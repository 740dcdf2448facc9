"""How robots act and what is observed of them: the same compiled code for all of them.

An observation is a list of pieces of `mjData`, one after another, some of them clipped; the scene
says which.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from envs.locomotion.native.row import (
    ANGLE,
    CONTACT,
    EFFORT,
    HEIGHT,
    LARGEST,
    OBS,
    POSITION,
    VELOCITY,
)
from meta_rl.rollouts.mujoco.compiling import (
    ACT,
    OBSERVE,
    Action,
    Addresses,
    Row,
    callback,
    compiled,
    read_double,
    write_double,
)

# Places in the addresses of a binding ...
CONTROL, CONTROLS = 0, 1  # where they are, and how many
HEIGHT_AT, ANGLE_AT = 2, 3
POSITIONS, POSITION_COUNT = 4, 5  # without the first two, for `LARGEST`
SPEEDS, SPEED_COUNT = 6, 7
FORCES, FORCE_COUNT = 8, 9
CENTRE, AXES, BODIES = 10, 11, 12  # a point with so many coordinates, or so many bodies' centres
PIECE_COUNT, PIECES = 13, 14
# ... where each piece of the observation has its address and how many numbers it has,
PIECE_ADDRESSES = 2
# and in its numbers: seconds of an env step, the bound of forces, the sum of all masses, for each
# piece its bound, then the controls' bounds, then the bodies' masses.
SECONDS, FORCE_BOUND, TOTAL_MASS, PIECE_BOUNDS = 0, 1, 2, 3


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
    for number in range(addresses[CONTROLS]):
        write_double(addresses[CONTROL] + 8 * number, action[number] * numbers[bounds + number])


def observe(addresses: Addresses, numbers: Row, action: Action, x: Row) -> None:
    """Write all of the row but the target."""
    locate(addresses, numbers, x)
    x[EFFORT] = sum_of_squares(addresses[CONTROL], addresses[CONTROLS], 1e300)
    x[CONTACT] = sum_of_squares(addresses[FORCES], addresses[FORCE_COUNT], numbers[FORCE_BOUND])
    x[HEIGHT] = read_double(addresses[HEIGHT_AT])
    x[ANGLE] = read_double(addresses[ANGLE_AT])
    x[LARGEST] = max(
        largest(addresses[POSITIONS], addresses[POSITION_COUNT]),
        largest(addresses[SPEEDS], addresses[SPEED_COUNT]),
    )
    place = OBS
    for piece in range(addresses[PIECE_COUNT]):
        here, bound = PIECES + piece * PIECE_ADDRESSES, numbers[PIECE_BOUNDS + piece]
        for number in range(addresses[here + 1]):
            x[place] = clipped(read_double(addresses[here] + 8 * number), bound)
            place += 1


@compiled
def locate(addresses: Addresses, numbers: Row, x: Row) -> None:
    """Write where the robot is, and how fast it came there from where it was."""
    masses = PIECE_BOUNDS + addresses[PIECE_COUNT] + addresses[CONTROLS]
    for axis in range(addresses[AXES]):
        here = addresses[CENTRE] + 8 * axis
        if addresses[BODIES] > 0:  # the centre of mass
            total = 0.0
            for body in range(addresses[BODIES]):
                total += numbers[masses + body] * read_double(here + 24 * body)
            now = total / numbers[TOTAL_MASS]
        else:
            now = read_double(here)
        x[VELOCITY + axis] = (now - x[POSITION + axis]) / numbers[SECONDS]
        x[POSITION + axis] = now


@compiled
def clipped(number: float, bound: float) -> float:
    """Return a number, at most a bound and at least its negative; NaN stays."""
    if number > bound:
        return bound
    if number < -bound:
        return -bound
    return number


@compiled
def largest(address: int, count: int) -> float:
    """Return the largest absolute value of some numbers."""
    found = 0.0
    for number in range(count):
        found = max(found, abs(read_double(address + 8 * number)))
    return found


@compiled
def sum_of_squares(address: int, count: int, bound: float) -> float:
    """Return the sum of squares of some numbers, clipped to a bound, at most 128 of them.

    It is rounded as NumPy's pairwise sum is: eight sums side by side, and the rest after them.
    """
    total, start = 0.0, 0
    if count >= 8:
        start = count - count % 8
        a = strided_squares(address, start, 0, bound) + strided_squares(address, start, 1, bound)
        b = strided_squares(address, start, 2, bound) + strided_squares(address, start, 3, bound)
        c = strided_squares(address, start, 4, bound) + strided_squares(address, start, 5, bound)
        d = strided_squares(address, start, 6, bound) + strided_squares(address, start, 7, bound)
        total = (a + b) + (c + d)
    for number in range(start, count):
        total += square(address, number, bound)
    return total


@compiled
def strided_squares(address: int, end: int, start: int, bound: float) -> float:
    """Return the sum of squares of every eighth number."""
    total = square(address, start, bound)
    for number in range(start + 8, end, 8):
        total += square(address, number, bound)
    return total


@compiled
def square(address: int, number: int, bound: float) -> float:
    """Return the square of a clipped number."""
    value = clipped(read_double(address + 8 * number), bound)
    return value * value
