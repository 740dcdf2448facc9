"""What a meta-iteration's experience says, as metrics."""

from collections.abc import Sequence

import torch

from meta_rl.core.episodes import episode_scores
from meta_rl.core.ranks import mean_over_ranks, sum_over_ranks
from meta_rl.core.types import MetaBatch, Metrics, Rollout, Score
from meta_rl.rollouts.adaptation import episodes_in


def summarize(batch: MetaBatch, scores: Sequence[Score]) -> Metrics:
    """Return the mean of each score in each phase, in the first and in the last.

    Whatever else the simulator reports is counted over a phase. Both are of all ranks' tasks.
    """
    means: Metrics = {}
    counts: Metrics = {}
    judged = {score.quantity for score in scores}
    for k, experience in enumerate(batch.experience):
        found = episode_scores(experience, scores, episodes_in(experience))
        ends = [("before", 0), ("after", len(batch.experience) - 1)]
        for label in [f"phase_{k}", *(name for name, which in ends if which == k)]:
            for score in scores:
                means[f"{score.label}/{label}"] = found[score.name].mean()
        for name, happened in experience.metrics.items():
            if name not in judged and isinstance(experience, Rollout):
                counted = torch.where(experience.valid, happened, 0.0)
                counts[f"{name}/phase_{k}"] = counted.sum()
    return mean_over_ranks(means) | sum_over_ranks(counts)


def fetch(metrics: Metrics, device: torch.device) -> dict[str, float]:
    """Bring metrics to the host in one transfer."""
    if not metrics:  # an agent that learns nothing may have nothing to say
        return {}
    stacked = torch.stack([value.detach().float().to(device) for value in metrics.values()])
    return dict(zip(metrics, stacked.tolist(), strict=True))
