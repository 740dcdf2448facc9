"""When the return of further episodes is too low for chance: the task must have changed."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

FALSE_ALARM = 0.00135
"""Chance of a false alarm in a round of an unchanged task with normal returns: that of a normal
number to lie 3 standard deviations below its mean, as on Shewhart's control charts."""


def alarm_limit(reference: Sequence[float], episodes: int) -> float:
    """Return the mean return of further episodes below which the task must have changed.

    The one-sided lower prediction limit for the mean of e further draws from the normal
    distribution that n returns came from (Hahn & Meeker 1991, ch. 4):
    mean - t(1 - FALSE_ALARM; n - 1) · s · √(1/n + 1/e). Two returns are the fewest that have an s.
    """
    count = len(reference)
    if count < 2:
        return -np.inf
    mean = float(np.mean(reference))
    # Rewards are sums of float32: equal returns may differ by rounding.
    spread = max(float(np.std(reference, ddof=1)), 1e-6 * abs(mean))
    quantile = float(stats.t.isf(FALSE_ALARM, count - 1))
    return mean - quantile * spread * float(np.sqrt(1 / count + 1 / episodes))
