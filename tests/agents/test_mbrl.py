from dataclasses import replace

import pytest
import torch
from playing import Player

from agents.mbrl import Config, build
from envs._drawn import DrawnFamily
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, Step, TimeStep
from meta_rl.diagnosis.checks_of_updates import prediction_gain
from meta_rl.diagnosis.evidence import Evidence
from meta_rl.evaluation.measuring import evaluate
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.rollouts.adaptation import Adaptation

CPU = torch.device("cpu")
MOMENTS = "before", "after"
SMALL = Config(
    episodes_per_trial=1,
    hidden_sizes=(32, 32),
    activation="tanh",
    past_steps=8,
    future_steps=8,
    inner_lr=0.2,
    memory_size=16,
    outer_lr=5e-3,
    gradient_steps=40,
    update_trials=16,
    moments_per_trial=8,
    candidates=32,
    planning_horizon=2,
)


class Pushes(DrawnFamily):
    """A point on a line that is pushed by g · a, g = -1 or 1 being hidden; r = -|x - 1|.

    Who does not know g can do no better than not to move.
    """

    family = "pushes"

    def __init__(self, horizon=12):
        self.spec = EnvSpec.box(1, [-1.0], [1.0], horizon, self.family)
        super().__init__("push", test=8, validation=2, seed=0)

    def draw(self, count, generator):
        return torch.randint(2, (count, 1), generator=generator).double() * 2 - 1

    def make_env(self, device, workers):
        return PushesEnv(self.spec.horizon)

    def protocol(self):
        return {}


class PushesEnv:
    def __init__(self, horizon):
        self.horizon = horizon

    def start(self, tasks, copies, seed):
        self.sign = tasks.params.float().expand(-1, copies)
        self.time = torch.zeros(self.sign.shape, dtype=torch.long)
        self.x = torch.zeros(self.sign.shape)
        return self.x.unsqueeze(-1)

    def step(self, action):
        self.x = self.x + 0.3 * self.sign * action.squeeze(-1).clamp(-1, 1)
        self.time = self.time + 1
        return Step(
            next_obs=self.x.unsqueeze(-1),
            reward=-(self.x - 1).abs(),
            terminated=torch.zeros_like(self.sign, dtype=torch.bool),
            truncated=self.time % self.horizon == 0,
            metrics={},
        )

    def reset_ended(self):
        self.x = torch.where(self.time % self.horizon == 0, 0.0, self.x)
        return self.x.unsqueeze(-1)

    def close(self):
        pass


FAMILY = Pushes()


def trained(config, updates=6, tasks=16):
    """Return an agent, and what each of its meta-updates has told."""
    agent, streams = build(config, FAMILY.spec, CPU, 0), Streams(0, CPU)
    collector, told = FAMILY.make_collector(CPU, 1), []
    for _ in range(updates):
        drawn = FAMILY.sample(tasks, "train", streams.tasks)
        batch = Adaptation(agent, collector, drawn, 1, streams, True).complete()
        told.append({name: float(value) for name, value in agent.meta_update(batch).items()})
    return agent, told


@pytest.mark.parametrize("adaptation", ["gradient", "recurrence"])
def test_adaptation_predicts_better_and_finds_out_which_way_to_push(adaptation):
    agent, told = trained(replace(SMALL, adaptation=adaptation), updates=14)
    assert "prediction/error_before" not in told[0]
    # Of one meta-update alone, the ratio is as often a fifth as two thirds.
    before, after = (sum(each[f"prediction/error_{at}"] for each in told[-3:]) for at in MOMENTS)
    assert after < 0.7 * before

    how = EvaluationConfig(adaptation_steps=0, actions="deterministic")
    found = evaluate(agent, FAMILY, FAMILY.make_collector(CPU, 1), CPU, how, 1, None, 0, 0)
    # Twelve steps at rest earn -12; straight to 1 they earn -0.7 - 0.4 - 0.1 and nothing after.
    assert found.scores["episode_return"].mean() > -6


@pytest.mark.parametrize("future", ["next", "trial"])
def test_the_error_before_adaptation_is_of_the_same_transitions_as_the_one_after(future):
    _, told = trained(replace(SMALL, inner_lr=1e-12, outer_lr=1e-12, future=future), updates=2)
    before, after = (told[-1][f"prediction/error_{at}"] for at in MOMENTS)
    assert before == pytest.approx(after, rel=1e-4)


def test_the_plan_goes_on_within_an_episode_and_begins_anew_with_the_next():
    agent, _ = trained(SMALL, updates=1)
    context = agent.begin(FAMILY.tasks("test")[:2], 1, False)

    def shown(first):
        return TimeStep(
            obs=torch.zeros(2, 1, 1),
            prev_action=torch.zeros(2, 1, 1),
            prev_reward=torch.zeros(2, 1),
            first=torch.tensor([[first], [True]]),
            valid=torch.ones(2, 1, dtype=torch.bool),
        )

    plan = torch.tensor([0.3, 0.9]).view(1, 1, 2, 1).expand(2, 1, 2, 1)
    begun = {}
    agent.planned = lambda plan, obs, known: begun.setdefault("plan", plan)
    agent.act(context | {"plan": plan}, shown(False), None)
    torch.testing.assert_close(begun["plan"].flatten(), torch.tensor([0.9, 0.9, 0.0, 0.0]))


def test_training_explores_by_different_deviations_and_evaluation_by_the_least():
    agent = build(replace(SMALL, action_std=0.1, training_std=0.4), FAMILY.spec, CPU, 0)
    tasks = FAMILY.sample(3, "train", torch.Generator().manual_seed(0))
    orders = set()
    for agent.meta_updates in range(6):
        std = agent.begin(tasks, 2, True)["std"]
        assert torch.equal(std[:, 0], std[:, 1])
        torch.testing.assert_close(std[:, 0].sort().values, torch.tensor([0.1, 0.2, 0.4]))
        orders.add(tuple(std[:, 0].tolist()))
    assert len(orders) > 1  # no class of tasks always explores far
    assert (agent.begin(tasks, 2, False)["std"] - 0.1).abs().max() < 1e-6


def test_a_single_task_explores_now_far_and_now_near():
    agent = build(replace(SMALL, action_std=0.1, training_std=0.4), FAMILY.spec, CPU, 0)
    task = FAMILY.sample(1, "train", torch.Generator().manual_seed(0))
    drawn = [float(agent.begin(task, 1, True)["std"]) for agent.meta_updates in range(20)]
    assert 0.1 <= min(drawn) < 0.15 and 0.3 < max(drawn) <= 0.4


def test_before_the_first_update_actions_are_drawn_around_the_middle():
    agent, worker = build(SMALL, FAMILY.spec, CPU, 0), Player(FAMILY, CPU, Streams(0, CPU))
    tasks = FAMILY.sample(100, "train", torch.Generator().manual_seed(0))
    context = agent.begin(tasks, 2, False)
    rollout, _ = worker.collect(agent, context, tasks, 2, agent.phases[0])
    assert abs(rollout.action.mean()) < 0.1 and abs(rollout.action.std() - 1) < 0.1


@pytest.mark.parametrize(("after", "status"), [(0.9, "alarm"), (0.3, "healthy")])
def test_the_doctor_notices_adaptation_that_predicts_no_better(after, status):
    row = {"prediction/error_before": 0.8, "prediction/error_after": after}
    assert prediction_gain(Evidence(FAMILY.spec, rows=[row])).status == status


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"past_steps": 0}, "past_steps must be at least 1"),
        ({"action_std": 0.5, "training_std": 0.1}, "training_std must be at least"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must all be"),
        ({"update_trials": 0}, "update_trials must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)
