from dataclasses import fields

import pytest
import torch
from playing import Player

from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointEnv, PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Rollout
from meta_rl.learning.trials import History, TrialConfig, packed
from meta_rl.rollouts.adaptation import Adaptation

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=12, test_goals=5))
TASKS, COPIES = 3, 4


@pytest.fixture
def rollout(monkeypatch, build_agent):
    """Trials of three episodes, which end at different steps."""
    monkeypatch.setattr(PointEnv, "REACHED", 0.25)
    agent, streams = build_agent("rl2_ppo", FAMILY.spec, episodes_per_trial=3), Streams(0, CPU)
    tasks = FAMILY.sample(TASKS, "train", streams.tasks)
    collector = Player(FAMILY, CPU, streams).collector
    return Rollout.concatenate(
        Adaptation(agent, collector, tasks, COPIES, streams).complete().rollouts
    )


def test_a_history_is_each_trial_in_order(rollout):
    history = History.played(packed(rollout).masked())
    for column, (m, n) in enumerate((m, n) for m in range(TASKS) for n in range(COPIES)):
        played = rollout.valid[:, m, n]
        for name in ("obs", "action", "reward", "next_obs", "first"):
            own = getattr(rollout, name)[:, m, n][played]
            assert torch.equal(getattr(history, name)[: len(own), column], own)
            assert not getattr(history, name)[len(own) :, column].any()


def test_what_a_memory_sees_of_a_history_is_what_it_saw_when_acting(rollout):
    acted = packed(rollout).masked()
    seen = History.played(acted).seen()
    steps = acted.valid.sum(0).flatten()
    assert len(steps.unique()) > 2 and seen.valid.shape == (len(acted.valid) + 1, len(steps), 1)
    for name in ("obs", "prev_action", "prev_reward", "first"):
        now, then = getattr(seen, name).squeeze(2), getattr(acted, name).flatten(1, 2)
        for column, count in enumerate(steps.tolist()):
            torch.testing.assert_close(now[:count, column], then[:count, column])


def test_after_the_last_step_a_memory_sees_what_it_led_to(rollout):
    history = History.played(packed(rollout).masked())
    seen = history.seen()
    for column, count in enumerate(history.valid.sum(0).tolist()):
        assert torch.equal(seen.obs[count, column, 0], history.next_obs[count - 1, column])
        assert torch.equal(seen.prev_action[count, column, 0], history.action[count - 1, column])
        assert seen.prev_reward[count, column, 0] == history.reward[count - 1, column]
        assert not seen.first[count, column, 0]
        assert seen.valid[: count + 1, column].all() and not seen.valid[count + 1 :, column].any()


def test_rows_of_a_replay_become_the_history_again(rollout):
    history = History.played(packed(rollout).masked())
    rows = history.rows(60)
    assert all(len(row) == TASKS * COPIES and row.shape[1] == 60 for row in rows.values())
    again = History.from_rows(rows, CPU)
    some = History.from_rows({name: row[[5, 2]] for name, row in rows.items()}, CPU)
    for field in fields(History):
        whole = getattr(history, field.name)
        assert torch.equal(getattr(again, field.name), whole)
        part = getattr(history.of(torch.tensor([5, 2])), field.name)
        assert torch.equal(getattr(some, field.name), part[: len(some.valid)])
    assert some.valid.any(1).all()


def test_a_trial_has_an_episode_at_least():
    with pytest.raises(UserError, match="episodes_per_trial must be at least 1, got 0"):
        TrialConfig(episodes_per_trial=0)
