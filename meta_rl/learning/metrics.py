"""Metrics of many gradient steps as those of one meta-update."""

from collections.abc import Sequence

import torch

from meta_rl.core.types import Metrics


def mean_of(history: Sequence[Metrics]) -> Metrics:
    """Return the mean of each metric; nothing of no steps."""
    names = history[0] if history else ()
    return {name: torch.stack([each[name] for each in history]).mean() for name in names}
