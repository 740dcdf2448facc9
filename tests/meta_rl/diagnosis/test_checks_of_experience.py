"""What the doctor takes for a reward that says nothing, and for a policy that tries nothing."""

from math import inf

import pytest
import torch

from meta_rl.core.types import EnvSpec, MetaBatch, Rollout, Task, Tasks
from meta_rl.diagnosis.checks_of_experience import _spread, exploration
from meta_rl.diagnosis.evidence import Evidence


def rollout(reward, terminated):
    """One task in two copies, with observations that do not matter."""
    reward = torch.tensor(reward, dtype=torch.float32).T.unsqueeze(1)  # (T, 1, 2)
    terminated = torch.tensor(terminated, dtype=torch.bool).T.unsqueeze(1)
    ended = terminated.cumsum(0) - terminated.int() > 0
    blank = torch.zeros(*reward.shape, 1)
    return Rollout(
        obs=blank,
        prev_action=blank,
        prev_reward=torch.zeros_like(reward),
        first=torch.zeros_like(ended),
        valid=~ended,
        action=blank,
        log_prob=torch.zeros_like(reward),
        reward=reward,
        terminated=terminated,
        truncated=torch.zeros_like(ended),
        next_obs=blank,
        metrics={},
    )


@pytest.mark.parametrize(
    ("reward", "terminated", "spread"),
    [
        ([[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]], 0),  # the same whatever is done
        ([[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [0, 0, 0]], 1),  # one that fails earns less
        ([[0, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 0]], 0),  # but not where life is free
        ([[1, 1, 9], [1, 1, 1]], [[0, 1, 0], [0, 1, 0]], 1),  # padding does not count
        ([[1, 2, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]], 1),
    ],
)
def test_a_reward_for_living_says_something_where_episodes_fail(reward, terminated, spread):
    assert _spread(rollout(reward, terminated)).tolist() == [spread]


@pytest.mark.parametrize(
    ("bound", "status"), [(1.0, "healthy"), (100.0, "alarm"), (inf, "skipped")]
)
def test_exploration_is_measured_against_bounds_if_there_are_any(bound, status):
    tasks = Tasks.stack([Task("family", "task", 0, ())])
    batch = MetaBatch(tasks, (rollout([[1], [1]], [[0], [0]]),))  # of density 1: σ = 0.24
    evidence = Evidence(EnvSpec.box(1, [-bound], [bound], 1), batches=[batch])
    assert exploration(evidence).status == status
