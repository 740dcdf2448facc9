"""Intervals that respect how results were drawn."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


def bootstrap_interval(
    values: Float[NDArray[np.float64], "M"],
    strata: list[str],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap of the mean, resampling tasks within each stratum (Efron 1979).

    Args:
        values: One number a task: the mean over its copies, which are not independent of each
            other given the task.
        strata: Each task's name. Names are the benchmark's, not a sample, so they stay fixed.

    Returns:
        Lower and upper end; none where a stratum has one task, whose spread nobody can know.
    """
    if min(strata.count(name) for name in strata) < 2:
        return None
    generator = np.random.default_rng(seed)
    sums = np.zeros(resamples)
    for name in sorted(set(strata)):
        stratum = values[[other == name for other in strata]]
        drawn = generator.integers(len(stratum), size=(resamples, len(stratum)))
        sums += stratum[drawn].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(sums / len(values), [tail, 1 - tail])
    return float(low), float(high)
