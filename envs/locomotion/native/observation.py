"""What is observed of robots: a function of the row alone, the same for all of them.

An observation is a list of pieces of `mjData`, one after another, some of them clipped; a
simulator has sensed them, and what else the plan tells of, into the row.
"""

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
from meta_rl.rollouts.mujoco.compiling import Integers, Row, compiled

# Places in a plan: where in the row the controls are, and how many; the torso's height and angle;
# positions without the first two, speeds, and forces on bodies;
CONTROL, CONTROLS = 0, 1
HEIGHT_AT, ANGLE_AT = 2, 3
POSITIONS, POSITION_COUNT = 4, 5
SPEEDS, SPEED_COUNT = 6, 7
FORCES, FORCE_COUNT = 8, 9
CENTRE, AXES, BODIES = 10, 11, 12  # a point with so many coordinates, or so many bodies' centres;
PIECE_COUNT, PIECES = 13, 14  # and how many numbers each piece of the observation has.
MOST_PIECES = 6
PLAN_SIZE = PIECES + MOST_PIECES
# Places in the numbers: seconds of an env step, the bound of forces, the sum of all masses, each
# piece's bound, then the controls' bounds, then the bodies' masses.
SECONDS, FORCE_BOUND, TOTAL_MASS, PIECE_BOUNDS = 0, 1, 2, 3


@compiled
def observe_robot(plan: Integers, numbers: Row, x: Row) -> None:
    """Write all of the row but what is sensed and the target."""
    locate(plan, numbers, x)
    x[EFFORT] = sum_of_squares(x, plan[CONTROL], plan[CONTROLS], 1e30)
    x[CONTACT] = 0.0
    if plan[FORCE_COUNT] > 0:
        x[CONTACT] = sum_of_squares(x, plan[FORCES], plan[FORCE_COUNT], numbers[FORCE_BOUND])
    x[HEIGHT] = x[plan[HEIGHT_AT]]
    x[ANGLE] = x[plan[ANGLE_AT]]
    x[LARGEST] = max(
        largest(x, plan[POSITIONS], plan[POSITION_COUNT]),
        largest(x, plan[SPEEDS], plan[SPEED_COUNT]),
    )
    place = OBS + 0 * plan[PIECE_COUNT]
    for piece in range(plan[PIECE_COUNT]):
        bound = numbers[PIECE_BOUNDS + piece]
        for number in range(plan[PIECES + piece]):
            x[place + number] = clipped(x[place + number], bound)
        place += plan[PIECES + piece]


@compiled
def locate(plan: Integers, numbers: Row, x: Row) -> None:
    """Write where the robot is, and how fast it came there from where it was."""
    masses = PIECE_BOUNDS + plan[PIECE_COUNT] + plan[CONTROLS]
    for axis in range(plan[AXES]):
        here = plan[CENTRE] + axis
        now = x[here]
        if plan[BODIES] > 0:  # the centre of mass
            total = numbers[masses] * x[here]
            for body in range(1, plan[BODIES]):
                total += numbers[masses + body] * x[here + 3 * body]
            now = total / numbers[TOTAL_MASS]
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
def largest(x: Row, start: int, count: int) -> float:
    """Return the largest absolute value of some numbers."""
    found = abs(x[start])
    for number in range(1, count):
        found = max(found, abs(x[start + number]))
    return found


@compiled
def sum_of_squares(x: Row, start: int, count: int, bound: float) -> float:
    """Return the sum of squares of some numbers, clipped to a bound, at most 128 of them.

    It is rounded as NumPy's pairwise sum is: eight sums side by side, and the rest after them.
    """
    total = 0.0 * float(count)
    rest = 0 * count
    if count >= 8:
        rest = count - count % 8
        end = start + rest
        a = strided_squares(x, start, end, bound) + strided_squares(x, start + 1, end, bound)
        b = strided_squares(x, start + 2, end, bound) + strided_squares(x, start + 3, end, bound)
        c = strided_squares(x, start + 4, end, bound) + strided_squares(x, start + 5, end, bound)
        d = strided_squares(x, start + 6, end, bound) + strided_squares(x, start + 7, end, bound)
        total = (a + b) + (c + d)
    for number in range(rest, count):
        total += square(x[start + number], bound)
    return total


@compiled
def strided_squares(x: Row, start: int, end: int, bound: float) -> float:
    """Return the sum of squares of every eighth number."""
    total = square(x[start], bound)
    for place in range(start + 8, end, 8):
        total += square(x[place], bound)
    return total


@compiled
def square(number: float, bound: float) -> float:
    """Return the square of a clipped number."""
    value = clipped(number, bound)
    return value * value
