"""Early stopping: asynchronous successive halving (ASHA, Li et al. 2020)."""

from collections.abc import Sequence
from typing import TypeAlias

Rank: TypeAlias = tuple[float, ...]
"""What trials are compared by, larger being better: see `EvalResult.rank`."""


def rungs(every: int, meta_iterations: int, reduction: int) -> list[int]:
    """Return the meta-iterations at which trials are judged: `every` times powers of `reduction`.

    Args:
        every: Meta-iterations between evaluations: the resource r of the first rung.
        meta_iterations: Where trials end: the resource R, which is no rung.
        reduction: The factor η.
    """
    found = []
    rung = every
    while rung < meta_iterations:
        found.append(rung)
        rung *= reduction
    return found


def goes_on(rank: Rank, earlier: Sequence[Rank], reduction: int) -> bool:
    """Return whether a trial is among the best 1/η of all that have reached a rung so far.

    There is always a best one, so the first trial goes on.

    Args:
        earlier: Ranks at this rung of the trials before it.
    """
    promoted = max(1, (len(earlier) + 1) // reduction)
    return sum(other > rank for other in earlier) < promoted
