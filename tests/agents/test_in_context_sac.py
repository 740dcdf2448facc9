from dataclasses import replace
from typing import get_args

import pytest
import torch
from cases import quick
from playing import Player

from agents.in_context_sac import Config, build
from envs._drawn import DrawnFamily
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointEnv, PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, Rollout, Step
from meta_rl.diagnosis.checks_of_updates import critic_error
from meta_rl.diagnosis.evidence import Evidence
from meta_rl.evaluation.measuring import evaluate
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.learning.memory import Kind
from meta_rl.learning.trials import History, packed
from meta_rl.rollouts.adaptation import Adaptation

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=12, test_goals=5))
TASKS, COPIES = 4, 2
SMALL = Config(
    encoder_sizes=(8,),
    memory_size=8,
    heads=2,
    hidden_sizes=(8,),
    gradient_steps=2,
    update_trials=4,
    piece_steps=5,
)


@pytest.fixture
def early_ends(monkeypatch):
    """Goals that most points soon run into, so that episodes end at different steps."""
    monkeypatch.setattr(PointEnv, "REACHED", 0.25)


def played(agent, family=FAMILY, tasks=TASKS, seed=0):
    """Return a meta-batch that the agent has played."""
    worker = Player(family, CPU, Streams(seed, CPU))
    drawn = family.sample(tasks, "train", torch.Generator().manual_seed(seed))
    return Adaptation(
        agent, worker.collector, drawn, COPIES, worker.streams, training=True
    ).complete()


def trials_of(batch):
    """Return a meta-batch's trials, without gaps."""
    return packed(Rollout.concatenate(batch.rollouts)).masked()


@pytest.mark.parametrize("memory", quick(get_args(Kind), ("gru", "transformer")))
def test_a_piece_remembers_what_acting_did(memory, early_ends):
    agent = build(replace(SMALL, memory=memory, normalize_inputs=False), FAMILY.spec, CPU, 0)
    trials = trials_of(played(agent))
    seen = agent.inputs(History.played(trials).seen()).flatten(1, 2)
    for start in (0, 1, 7):
        with torch.no_grad():
            state = agent.network.states(seen, start)[:-1]
            policy = agent.network.heads.policy(state)
        log_prob = policy.log_prob(trials.action[start:].flatten(1, 2))
        valid = trials.valid[start:].flatten(1, 2)
        expected = trials.log_prob[start:].flatten(1, 2)[valid]
        torch.testing.assert_close(log_prob[valid], expected, rtol=1e-4, atol=1e-4)


def test_an_episodes_end_ends_nothing_and_a_trial_ends_with_a_failure_alone(
    early_ends, monkeypatch
):
    agent = build(replace(SMALL, piece_steps=100), FAMILY.spec, CPU, 0)
    trials, found = trials_of(played(agent)), {}
    history, count = History.played(trials), trials.valid.sum(0).flatten()
    last = trials.terminated.flatten(1, 2).gather(0, (count - 1).unsqueeze(0)).squeeze(0)
    monkeypatch.setattr(
        agent.network.heads,
        "target",
        lambda reward, ended, *_: found.update(ended=ended) or reward.unsqueeze(-1).repeat(1, 1, 3),
    )
    agent.gradient_step(history, last, slice(0, len(history.valid)))
    # Goals that are reached soon end episodes; of those, only the trial's last ends the values.
    ends = found["ended"].nonzero().tolist()
    expected = [[int(count[b]) - 1, b] for b in range(TASKS * COPIES) if last[b]]
    assert sorted(ends) == sorted(expected)
    assert trials.terminated.sum() > len(expected) > 0 and not last.all()


def test_all_steps_are_learned_from_alike():
    agent = build(SMALL, FAMILY.spec, CPU, 0)
    valid = torch.arange(12).unsqueeze(1) < torch.tensor([12, 3])
    weight = torch.zeros(12, 2)
    for _ in range(4000):
        piece = agent.piece(valid)
        weight[piece] += valid[piece] / valid[piece].sum()
    # Each of 15 steps has 267 of the 4000, give or take four times √4000 · 0.19 at the far end.
    assert ((weight[valid] - 4000 / 15).abs() < 4 * 12.3).all()
    assert agent.piece(valid[:1]) == slice(0, 1)


def test_actor_and_critics_teach_one_memory_and_targets_follow():
    agent = build(replace(SMALL, polyak=0.25, outer_lr=1e-2), FAMILY.spec, CPU, 0)
    batch = played(agent)
    heads, network = agent.network.heads, agent.network
    agent.meta_update(batch)
    before = [each.clone() for each in heads.targets.parameters()]
    rows = agent.replay.sample(4, agent.generator)
    failed = rows.pop("failed")
    agent.gradient_step(History.from_rows(rows, CPU), failed, slice(0, 5))
    assert all(each.grad.abs().sum() > 0 for each in network.memory.parameters())
    assert all(each.grad is None for each in heads.targets.parameters())
    # The heads' last layers also move with the values' moments, alike for both.
    moved = [name for name, _ in heads.targets.named_parameters() if "head" not in name]
    now, after = (dict(part.named_parameters()) for part in (heads.critics, heads.targets))
    was = dict(zip((name for name, _ in heads.targets.named_parameters()), before, strict=True))
    for name in moved:
        torch.testing.assert_close(after[name], was[name] + 0.25 * (now[name] - was[name]))


class Sides(DrawnFamily):
    """Throws at a line whose target, at -0.5 or 0.5, is not shown; r = -4 (a - target)²."""

    family = "sides"

    def __init__(self):
        self.spec = EnvSpec.box(1, [-1.0], [1.0], 2, self.family)
        super().__init__("side", test=8, validation=2, seed=0)

    def draw(self, count, generator):
        return torch.randint(2, (count, 1), generator=generator).double() - 0.5

    def make_env(self, device, workers):
        return SidesEnv()

    def protocol(self):
        return {}


class SidesEnv:
    def start(self, tasks, copies, seed):
        self.target = tasks.params.float().expand(-1, copies)
        self.time = torch.zeros(self.target.shape, dtype=torch.long)
        return torch.zeros(*self.target.shape, 1)

    def step(self, action):
        self.time = self.time + 1
        return Step(
            next_obs=torch.zeros_like(action),
            reward=-4 * (action.squeeze(-1) - self.target) ** 2,
            terminated=torch.zeros_like(self.target, dtype=torch.bool),
            truncated=self.time % 2 == 0,
            metrics={},
        )

    def reset_ended(self):
        return torch.zeros(*self.target.shape, 1)

    def close(self):
        pass


@pytest.mark.parametrize("memory", quick(get_args(Kind), ("gru",)))
def test_it_finds_the_side_of_a_task_from_what_the_first_throws_earned(memory):
    # Who does not know the side earns -1 a throw at best, -2 an episode, by throwing at the middle.
    family = Sides()
    config = replace(
        SMALL,
        memory=memory,
        gammas=(0.5, 0.9),
        memory_size=16,
        encoder_sizes=(16,),
        hidden_sizes=(32,),
        outer_lr=1e-2,
        polyak=0.1,
        gradient_steps=20,
        update_trials=32,
    )
    agent, streams = build(config, family.spec, CPU, 0), Streams(0, CPU)
    collector = family.make_collector(CPU, 1)
    for _ in range(10):
        tasks = family.sample(16, "train", streams.tasks)
        agent.meta_update(Adaptation(agent, collector, tasks, 2, streams, True).complete())
    how = EvaluationConfig(actions="deterministic")
    found = evaluate(agent, family, collector, CPU, how, 8, None, 0, 0)
    before, after = found.scores["episode_return"].mean((0, 2, 3))
    assert before < -0.8 and after > -1.0


@pytest.mark.parametrize(("error", "status"), [(0.2, "healthy"), (3.0, "alarm")])
def test_the_doctor_notices_critics_that_are_worse_than_none(error, status):
    assert critic_error(Evidence(FAMILY.spec, rows=[{"critic/error": error}])).status == status


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gammas": ()}, "gammas must be one or more"),
        ({"gammas": (0.9, 1.0)}, r"in \[0, 1\), got \(0.9, 1.0\)"),
        ({"encoder_sizes": ()}, "encoder_sizes must be one or more"),
        ({"piece_steps": 0}, "piece_steps must be at least 1"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0"),
        ({"episodes_per_trial": 0}, "episodes_per_trial must be at least 1"),
        ({"memory": "transformer", "memory_size": 12, "heads": 4}, "a multiple of 8"),
        ({"learn_temperature": False, "target_entropy": -1.0}, "not learned"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)


def test_a_replay_that_does_not_fit_is_refused_and_its_size_is_told(meta_rl, small_config):
    config = small_config("in_context_sac", meta_iterations=1)
    refused = meta_rl("train", config, "--agent.replay-trials", 10**13)
    refused.fails_with("the replayed experience grows to", "agent.replay_trials")
    # A trial: 10 steps of 2 + 2 + 1 + 2 numbers of 4 bytes and two marks, and one mark: 301.
    told = meta_rl("train", config, "--agent.replay-trials", 1000).succeeds()
    assert "grows to 301 kB of memory" in told.out + told.err
