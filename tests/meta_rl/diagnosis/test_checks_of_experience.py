"""What the doctor takes for a reward that says nothing, and for a policy that tries nothing."""

from dataclasses import replace
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


TASK = Task("it", "a", 7, (0.0,))


def test_a_task_that_was_played_several_times_counts_once_in_the_gain_of_adaptation():
    end = [[0, 1], [0, 1]]
    played = [[[1, 1], [1, 1]], [[1, 3], [1, 3]], [[1, 5], [1, 5]]]  # episodes of 2, 4 and 6
    batches = [
        MetaBatch(Tasks.stack([task]), (rollout(played[0], end), rollout(played[after], end)))
        for task, after in [(TASK, 1), (TASK, 2), (replace(TASK, index=8), 1)]
    ]
    evidence = Evidence(EnvSpec.box(1, (-1.0,), (1.0,), 2), batches=batches)
    assert evidence.gains().tolist() == [3, 2]
    assert len(Evidence(EnvSpec.box(1, (-1.0,), (1.0,), 2)).gains()) == 0
