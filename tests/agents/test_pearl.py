from dataclasses import replace

import pytest
import torch
from playing import Player

from agents.pearl import Config, build, drawing
from envs._drawn import DrawnFamily
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import SharedNoise, Streams
from meta_rl.core.types import EnvSpec, Phase, Step, TimeStep
from meta_rl.diagnosis.checks_of_updates import posterior_divergence
from meta_rl.diagnosis.evidence import Evidence
from meta_rl.evaluation.measuring import evaluate
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.learning.replay import task_keys
from meta_rl.learning.task_posterior import gaussian
from meta_rl.rollouts.adaptation import Adaptation

CPU = torch.device("cpu")
SMALL = Config(
    prior_episodes=1,
    posterior_episodes=1,
    latent_size=3,
    encoder_sizes=(16,),
    hidden_sizes=(16,),
    gradient_steps=2,
    update_tasks=4,
    batch_size=8,
    context_size=8,
)


class Sides(DrawnFamily):
    """Throws at a line whose target, at -0.5 or 0.5, is not shown; r = -4 (a - target)²."""

    family = "sides"

    def __init__(self, horizon=1):
        self.spec = EnvSpec.box(1, [-1.0], [1.0], horizon, self.family)
        super().__init__("side", test=8, validation=2, seed=0)

    def draw(self, count, generator):
        return torch.randint(2, (count, 1), generator=generator).double() - 0.5

    def make_env(self, device, workers):
        return SidesEnv(self.spec.horizon)

    def protocol(self):
        return {}


class SidesEnv:
    def __init__(self, horizon):
        self.horizon = horizon

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
            truncated=self.time % self.horizon == 0,
            metrics={},
        )

    def reset_ended(self):
        return torch.zeros(*self.target.shape, 1)

    def close(self):
        pass


FAMILY = Sides(horizon=3)


def some_tasks(count=4, seed=0):
    return FAMILY.sample(count, "train", torch.Generator().manual_seed(seed))


def played(agent, tasks, copies=2, episodes=1, context=None):
    worker = Player(FAMILY, CPU, Streams(0, CPU))
    context = agent.begin(tasks, copies, True) if context is None else context
    return worker.collect(agent, context, tasks, copies, Phase(episodes))


def a_step(tasks, copies, first):
    return TimeStep(
        obs=torch.zeros(tasks, copies, 1),
        prev_action=torch.zeros(tasks, copies, 1),
        prev_reward=torch.zeros(tasks, copies),
        first=torch.full((tasks, copies), first),
        valid=torch.ones(tasks, copies, dtype=torch.bool),
    )


def test_z_is_drawn_when_an_episode_begins_and_kept_within_it():
    agent, noise = build(SMALL, FAMILY.spec, CPU, 0), SharedNoise(torch.Generator().manual_seed(0))
    context = agent.begin(some_tasks(400), 5, True)
    assert torch.equal(context["z"], torch.zeros(400, 5, 3))
    with torch.no_grad():
        _, _, begun = agent.act(context, a_step(400, 5, True), noise)
        _, _, later = agent.act(begun, a_step(400, 5, False), noise)
        _, _, again = agent.act(later, a_step(400, 5, True), noise)
        _, _, mode = agent.act(again, a_step(400, 5, True), None)
    # 6000 standard normal numbers: their mean and deviation are within 4 σ.
    assert abs(begun["z"].mean()) < 0.052 and abs(begun["z"].std() - 1) < 0.037
    assert torch.equal(later["z"], begun["z"])
    assert (again["z"] != later["z"]).all()
    assert torch.equal(mode["z"], context["z"])


def test_adaptation_refines_the_posterior_episode_by_episode_whoever_played_them():
    agent, tasks = build(SMALL, FAMILY.spec, CPU, 0), some_tasks()
    begun = agent.begin(tasks, 2, True)
    rollout, acted = played(agent, tasks, copies=2, episodes=2)
    at_once = agent.adapt(acted, rollout)

    def part(steps):
        names = ("obs", "prev_action", "prev_reward", "first", "valid", "action", "log_prob")
        more = ("reward", "terminated", "truncated", "next_obs")
        return replace(rollout, **{name: getattr(rollout, name)[steps] for name in names + more})

    piecewise = agent.adapt(agent.adapt(acted, part(slice(0, 3))), part(slice(3, 6)))
    torch.testing.assert_close(piecewise, at_once)
    assert (gaussian(at_once["natural"]).log_std < 0).all()
    assert torch.equal(at_once["z"][:, 0], gaussian(at_once["natural"]).mean)
    other = agent.adapt(begun, rollout)
    assert torch.equal(other["natural"], at_once["natural"])


def test_context_is_what_was_played_last_phase_by_phase():
    # Task 5 was played in updates 1 and 3, task 6 in update 2; of task 7 no first phase is left.
    stored = {
        "task": torch.tensor([7, 5, 5, 6, 6, 5, 5]),
        "meta_update": torch.tensor([1, 1, 1, 2, 2, 3, 3]),
        "phase": torch.tensor([1, 0, 1, 0, 1, 0, 1]),
    }
    (first, both), steps = drawing(stored, 2)
    generator = torch.Generator().manual_seed(0)
    for by_task, expected in ((first, [{5}, {3}]), (both, [{5, 6}, {3, 4}])):
        assert by_task.keys.tolist() == [5, 6]
        drawn = by_task.sample(torch.tensor([0, 1]), 200, generator)
        assert [set(row.tolist()) for row in drawn] == expected
    drawn = steps.sample(torch.tensor([0, 1]), 200, generator)
    assert [set(row.tolist()) for row in drawn] == [{1, 2, 5, 6}, {3, 4}]


@pytest.mark.parametrize("posterior_context", [False, True])
def test_the_encoder_sees_episodes_of_the_posterior_only_if_it_is_told_to(
    posterior_context, monkeypatch
):
    agent = build(replace(SMALL, posterior_context=posterior_context), FAMILY.spec, CPU, 0)
    worker = Player(FAMILY, CPU, Streams(0, CPU))
    adaptation = Adaptation(agent, worker.collector, some_tasks(), 2, worker.streams, training=True)
    batch, seen = adaptation.complete(), []
    from_the_prior = set(batch.rollouts[0].action.flatten().tolist())
    step = agent.gradient_step
    monkeypatch.setattr(
        agent, "gradient_step", lambda context, *rest: seen.append(context) or step(context, *rest)
    )
    for _ in range(5):
        agent.meta_update(batch)
    known = [set(each["action"].flatten().tolist()) <= from_the_prior for each in seen]
    assert all(known) != posterior_context and any(known)


def test_nothing_is_learned_before_there_are_enough_steps(identical):
    agent = build(replace(SMALL, initial_steps=30), FAMILY.spec, CPU, 0)
    worker = Player(FAMILY, CPU, Streams(0, CPU))
    before = {name: value.clone() for name, value in agent.sac.state_dict().items()}
    for count, learned in ((2, False), (4, True)):
        tasks = some_tasks(count)
        batch = Adaptation(agent, worker.collector, tasks, 2, worker.streams, training=True)
        metrics = agent.meta_update(batch.complete())
        assert ("outer/loss" in metrics) == learned
        assert identical(dict(agent.sac.state_dict()), before) != learned


def test_a_phase_is_stored_task_by_task_as_the_rows_of_ranks_follow_each_other():
    agent = build(SMALL, FAMILY.spec, CPU, 0)
    worker = Player(FAMILY, CPU, Streams(0, CPU))
    adaptation = Adaptation(agent, worker.collector, some_tasks(), 2, worker.streams, training=True)
    agent.store(adaptation.complete())
    stored = agent.replay.columns
    first = stored["task"][stored["phase"] == 0]
    assert torch.equal(first.unique_consecutive(), task_keys(some_tasks()).unique_consecutive())


def test_a_replay_that_forgets_first_phases_at_once_is_refused():
    agent = build(replace(SMALL, replay_steps=20), FAMILY.spec, CPU, 0)  # of 24 steps each phase
    worker = Player(FAMILY, CPU, Streams(0, CPU))
    adaptation = Adaptation(agent, worker.collector, some_tasks(), 2, worker.streams, training=True)
    with pytest.raises(
        UserError, match="replay_steps 20 does not hold the steps of one meta-batch"
    ):
        agent.meta_update(adaptation.complete())


def test_it_finds_the_side_of_a_task_from_what_the_first_throws_earned():
    # Who does not know the side earns -4 · 0.5² = -1 at best, by throwing at the middle.
    family = Sides()
    config = replace(
        SMALL,
        prior_episodes=4,
        hidden_sizes=(32, 32),
        encoder_sizes=(32, 32),
        outer_lr=5e-3,
        reward_scale=1.0,
        temperature=0.05,
        kl_weight=0.01,
        gradient_steps=30,
        update_tasks=8,
        batch_size=16,
        context_size=4,
    )
    agent, streams = build(config, family.spec, CPU, 0), Streams(0, CPU)
    collector = family.make_collector(CPU, 1)
    for _ in range(10):
        tasks = family.sample(16, "train", streams.tasks)
        agent.meta_update(Adaptation(agent, collector, tasks, 1, streams, True).complete())
    how = EvaluationConfig(actions="deterministic")
    found = evaluate(agent, family, collector, CPU, how, 8, None, 0, 0)
    before, after = found.scores["episode_return"].mean((0, 2, 3))
    assert before < -0.8 and after > -0.5


@pytest.mark.parametrize(("kl_weight", "status"), [(100.0, "alarm"), (0.0, "healthy")])
def test_the_doctor_notices_a_posterior_that_says_nothing(kl_weight, status):
    config = replace(SMALL, kl_weight=kl_weight, outer_lr=3e-2, gradient_steps=60)
    agent, worker = build(config, FAMILY.spec, CPU, 0), Player(FAMILY, CPU, Streams(0, CPU))
    adaptation = Adaptation(agent, worker.collector, some_tasks(), 2, worker.streams, training=True)
    batch = adaptation.complete()
    agent.meta_update(batch)
    row = {name: float(value) for name, value in agent.meta_update(batch).items()}
    assert posterior_divergence(Evidence(FAMILY.spec, rows=[row])).status == status


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_size": 0}, "latent_size must be at least 1"),
        ({"encoder_sizes": (0,)}, "encoder_sizes must all be"),
        ({"replay_steps": 10, "initial_steps": 11}, "at most replay_steps, which is 10, got 11"),
        ({"posterior_episodes": 0, "posterior_context": True}, "posterior_episodes to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)


def test_a_replay_that_does_not_fit_is_refused_and_its_size_is_told(meta_rl, small_config):
    config = small_config("pearl", meta_iterations=1)
    refused = meta_rl("train", config, "--agent.replay-steps", 10**13)
    refused.fails_with("the replayed experience grows to", "lower agent.replay_steps")
    # A row: three numbers of 8 bytes, a mark, and 2 + 2 + 1 + 2 numbers of 4 bytes: 53.
    told = meta_rl("train", config, "--agent.replay-steps", 1000).succeeds()
    assert "grows to 53 kB of memory, half as much again while" in told.out + told.err
