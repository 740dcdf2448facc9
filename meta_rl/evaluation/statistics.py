"""Aggregates of scores over runs and tasks, with intervals that respect how both were drawn.

Scores are `(R, M)`: R runs, each of one seed, on M tasks. Aggregates, performance profiles and the
probability of improvement are those of Agarwal et al. 2021, "Deep reinforcement learning at the
edge of the statistical precipice".
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Resampling: TypeAlias = Literal["whole-runs", "rliable"]
"""What a bootstrap draws anew.

`whole-runs` draws runs, each with all of its tasks, and tasks within each name, where they are a
sample. A meta-policy is trained once and then plays every task, so the luck of its seed is in all
of its scores together.
`rliable` draws the runs anew for each task and leaves the tasks as they are, as Agarwal et al. do
for agents that are trained on each task apart. On a meta-policy its intervals are too narrow.
"""


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval; they are none where nothing could be resampled."""

    value: float
    low: float | None = None
    high: float | None = None


def iqm(scores: Float[np.ndarray, "B R M"]) -> Float[np.ndarray, "B"]:
    """Return the interquartile mean: of all R M scores, the mean of the middle half."""
    ordered = np.sort(scores.reshape(len(scores), -1))
    cut = ordered.shape[1] // 4
    return np.asarray(ordered[:, cut : ordered.shape[1] - cut].mean(1))


def mean(scores: Float[np.ndarray, "B R M"]) -> Float[np.ndarray, "B"]:
    """Return the mean of all scores."""
    return np.asarray(scores.mean((1, 2)))


def median(scores: Float[np.ndarray, "B R M"]) -> Float[np.ndarray, "B"]:
    """Return the median over tasks of each task's mean over runs."""
    return np.asarray(np.median(scores.mean(1), 1))


AGGREGATES = {"IQM": iqm, "mean": mean, "median": median}


def performance_profile(
    scores: Float[np.ndarray, "B R M"], thresholds: Float[np.ndarray, "K"]
) -> Float[np.ndarray, "B K"]:
    """Return the share of all R M scores above each threshold."""
    ordered = np.sort(scores.reshape(len(scores), -1))
    below = np.stack([np.searchsorted(row, thresholds, side="right") for row in ordered])
    return np.asarray(1 - below / ordered.shape[1])


def probability_of_improvement(
    x: Float[np.ndarray, "B R M"], y: Float[np.ndarray, "B Q M"]
) -> Float[np.ndarray, "B"]:
    """Return how often a run of x beats a run of y on the same task; a tie counts half.

    That is the mean over tasks of Mann and Whitney's statistic divided by R Q.
    """
    ours, theirs = x[:, :, None], y[:, None]
    return np.asarray(((ours > theirs) + 0.5 * (ours == theirs)).mean((1, 2, 3)))


def resampled(
    runs: Sequence[int], strata: Sequence[str], resampling: Resampling = "whole-runs"
) -> tuple[str, ...]:
    """Return what a bootstrap draws anew: seeds, tasks, both, or nothing.

    One seed cannot be resampled: nobody knows the spread of one. Nor can tasks where a stratum has
    one only; strata themselves are the benchmark's, not a sample, so they stay fixed.

    Args:
        runs: The number of runs R of each array of scores.
        strata: What each task is one of, see `EvalResult.strata`.
    """
    drawn = []
    if max(runs) > 1:
        drawn.append("seeds" if min(runs) > 1 else "some seeds")
    if resampling == "whole-runs" and min(Counter(strata).values()) > 1:
        drawn.append("tasks")
    return tuple(drawn)


def too_few_tasks(strata: Sequence[str]) -> bool:
    """Return whether a bootstrap over tasks gives intervals that are clearly too narrow.

    Of n tasks of a name it shows (n - 1) / n of the variance, however many names there are. Where a
    name has a single task, there is no interval over tasks.
    """
    return 1 < min(Counter(strata).values()) < 5


def bootstrap_interval(
    statistic: Callable[..., NDArray[np.float64]],
    scores: Sequence[Float[np.ndarray, "_ M"]],
    strata: Sequence[str],
    resampling: Resampling = "whole-runs",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "2 ..."] | None:
    """Percentile bootstrap (Efron 1979) over runs and, within each stratum, over tasks.

    Args:
        statistic: Function of arrays `(B, R, M)`, one for each of `scores`, returning `(B, ...)`.
        scores: Arrays `(R, M)` on the same tasks. Their runs are drawn apart, their tasks together.
            A score is the mean over a task's episodes and copies, which are not independent of
            each other given the task.
        strata: What each task is one of, see `EvalResult.strata`.

    Returns:
        Lower and upper ends, each in the statistic's shape; none where nothing can be drawn anew.
    """
    what = resampled([len(array) for array in scores], strata, resampling)
    if not what:
        return None
    generator = np.random.default_rng(seed)
    columns = np.tile(np.arange(len(strata)), (resamples, 1))
    if "tasks" in what:
        for name in sorted(set(strata)):
            stratum = np.flatnonzero([other == name for other in strata])
            drawn = generator.integers(len(stratum), size=(resamples, len(stratum)))
            columns[:, stratum] = stratum[drawn]
    width = len(strata) if resampling == "rliable" else 1
    rows = [generator.integers(len(array), size=(resamples, len(array), width)) for array in scores]
    # In parts, because all resamples at once may not fit in memory.
    part = max(1, 1_000_000 // sum(array.size for array in scores))
    values = []
    for start in range(0, resamples, part):
        here = slice(start, start + part)
        drawn_scores = [
            array[row[here], columns[here, None]] for array, row in zip(scores, rows, strict=True)
        ]
        values.append(statistic(*drawn_scores))
    tail = (1 - confidence) / 2
    return np.asarray(np.quantile(np.concatenate(values), [tail, 1 - tail], axis=0))


def estimate(
    statistic: Callable[..., NDArray[np.float64]],
    scores: Sequence[Float[np.ndarray, "_ M"]],
    strata: Sequence[str],
    resampling: Resampling = "whole-runs",
) -> Estimate:
    """Return a statistic with its 95 % interval; the arguments are `bootstrap_interval`'s."""
    (value,) = statistic(*(array[None] for array in scores))
    ends = bootstrap_interval(statistic, scores, strata, resampling)
    low, high = (None, None) if ends is None else ends.tolist()
    return Estimate(float(value), low, high)
