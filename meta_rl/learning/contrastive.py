"""A contrastive loss that tells tasks apart in a metric space, and a measure of its success."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus


def info_nce(
    embedding: Float[Tensor, "B E"],
    task: Int[Tensor, "B"],
    trial: Int[Tensor, "B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """InfoNCE over tasks (CORRO, Yuan and Lu 2022, eq. 6), mean over all positive pairs.

        -log exp(z·z⁺ / τ) / (exp(z·z⁺ / τ) + Σ exp(z·z⁻ / τ))

    z⁺ is of another trial of the same task, and the z⁻ are of all other tasks.

    Args:
        embedding: Of length 1.
        trial: Number of the trial. Embeddings of one trial are no positives of each other.
    """
    similarity = embedding @ embedding.T / temperature
    same = task.unsqueeze(0) == task.unsqueeze(1)
    positive = same & (trial.unsqueeze(0) != trial.unsqueeze(1))
    # Not minus infinity: where there is no other task, the slope would be 0 / 0.
    others = similarity.masked_fill(same, -1e9).logsumexp(1, keepdim=True)
    loss: Tensor = softplus(others - similarity)[positive].mean()
    return loss


def nearest_task(embedding: Float[Tensor, "B E"], task: Int[Tensor, "B"]) -> Bool[Tensor, "B"]:
    """Return whether each embedding lies nearest to the other embeddings of its own task.

    The distance to a task is that to its mean embedding, for its own task without itself. The only
    embedding of a task counts as wrong.
    """
    labels, task = torch.unique(task, return_inverse=True)
    member = torch.nn.functional.one_hot(task, len(labels)).to(embedding.dtype)  # (B, K)
    count = member.sum(0)
    total = member.T @ embedding
    means = total / count.unsqueeze(1)
    # Not by a matrix product, whose error is as large as the distance of tasks that lie close.
    distance = torch.cdist(embedding, means, compute_mode="donot_use_mm_for_euclid_dist")
    alone = count[task] == 1
    own = (total[task] - embedding) / (count[task] - 1).clamp(min=1).unsqueeze(1)
    to_own = (embedding - own).norm(dim=1).masked_fill(alone, torch.inf)
    to_others = distance.masked_fill(member > 0, torch.inf).amin(1)
    nearest: Tensor = to_own < to_others
    return nearest
