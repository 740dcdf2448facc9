"""Agents measured on tasks that change: known answers, and the layout of lives."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.change import ChangeConfig
from meta_rl.core.errors import UserError
from meta_rl.core.lives import Changing
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import RETURN, Phase
from meta_rl.evaluation.folder import Evaluations
from meta_rl.evaluation.life_plan import plan_lives
from meta_rl.evaluation.lives import recovery
from meta_rl.evaluation.measuring import evaluate
from meta_rl.evaluation.protocol import fingerprint, make_protocol
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.runs import checkpoint

CPU = torch.device("cpu")
HORIZON = 4


class Counter:
    """Stands still; its context counts what it has learned, and what it acted on."""

    def __init__(self, copies_share_experience: bool) -> None:
        self.phases = (Phase(), Phase())
        self.copies_share_experience = copies_share_experience
        self.knew: list[torch.Tensor] = []

    def begin(self, tasks, copies, training):
        return torch.zeros(len(tasks), dtype=torch.long)

    def act(self, context, timestep, noise):
        if timestep.first.all():
            self.knew.append(context.clone())
        return torch.zeros_like(timestep.prev_action), timestep.prev_reward, context

    def adapt(self, context, rollout):
        return context + 1

    def meta_update(self, batch):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def changing(every, **change):
    family = PointNavigation(PointConfig(horizon=HORIZON, test_goals=5))
    return Changing(family, ChangeConfig(every=every, **change))


def measured(family, agent, copies=3, tasks_at_once=None, **config):
    collector = family.make_collector(CPU, 1)
    settings = EvaluationConfig(**config)
    return evaluate(agent, family, collector, CPU, settings, copies, tasks_at_once, 0, 0)


def goals(family, number):
    """Where each task's goal is after so many changes of its life."""
    tasks = family.tasks("test")
    seed = TaskStreams(0, CPU, "evaluation/life/changes").env_seed()
    course = family.changes.begin(tasks, 1, seed, shared=True, anywhere=False).course
    return np.array([course.task(row, number).params for row in range(len(tasks))])


def test_the_protocol_tells_how_tasks_change():
    agent, config = Counter(True), EvaluationConfig()
    lives = [changing("3 episodes"), changing("3 episodes", how="drift")]
    lives += [changing("3 episodes", how="drift", drift=0.2), changing("2 episodes")]
    assert len({fingerprint(make_protocol(agent, each, config, 3)) for each in lives}) == 4


@pytest.mark.parametrize("shared", [True, False])
def test_who_stands_still_earns_the_distance_to_whichever_goal_it_is(shared):
    family = changing("3 episodes")
    result = measured(family, Counter(shared), changes=2, tasks_at_once=2)
    assert result.shape == (2, 3, 5, 1)
    assert result.adaptation_episodes == (0, 1, 2)
    for change in (1, 2):
        expected = -HORIZON * np.linalg.norm(goals(family, change), axis=1)
        found = result.scores["episode_return"][change - 1, :, :, 0]
        np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-5)


def test_within_an_episode_every_step_is_measured():
    family = changing("geometric 0.4")
    result = measured(family, Counter(False), changes=5, copies=2)
    assert result.shape == (5, 2, 5, 1)
    assert result.stages_are == "steps since the change"
    regular = changing("2 steps")
    for change in range(1, 6):
        expected = -np.linalg.norm(goals(regular, change), axis=1)
        found = result.scores["reward_of_step"][change - 1, :, :, 0]
        np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("shared", "settings", "knew"),
    [
        (True, {"relearn": "always"}, [0, 1, 2, 3]),
        (True, {"adaptation_steps": 0}, [0, 0, 0, 0]),
        (False, {}, list(range(12))),
        (False, {"adaptation_steps": 0}, [0] * 12),
    ],
)
def test_what_an_agent_knows_in_each_round(shared, settings, knew):
    """12 episodes: four rounds of three, or of one where copies are trials of their own."""
    agent = Counter(shared)
    measured(changing("4 episodes"), agent, copies=3, changes=2, goals=1, **settings)
    begun = agent.knew if not shared else agent.knew[::3]
    assert [int(known[0]) for known in begun] == knew


def test_each_task_begins_anew_when_its_own_return_drops():
    """Two rounds with the first goal, to learn and to know what it pays, and two with the next."""
    agent, family = Counter(True), changing("6 episodes")
    measured(family, agent, copies=3, changes=1)
    farther = np.linalg.norm(goals(family, 1), axis=1) > np.linalg.norm(goals(family, 0), axis=1)
    assert 0 < farther.sum() < 5
    known = torch.stack(agent.knew[::3]).tolist()
    assert known == [[0] * 5, [1] * 5, [1] * 5, [0 if far else 1 for far in farther]]


def test_several_rounds_are_learned_from_before_it_only_plays():
    agent = Counter(True)
    measured(changing("18 episodes"), agent, copies=3, changes=1, goals=1, adaptation_steps=3)
    assert [int(known[0]) for known in agent.knew[::3]][:6] == [0, 1, 2, 3, 3, 3]


def test_long_times_between_changes_are_pooled():
    family = changing("50 episodes")
    plan = plan_lives(Counter(True), family, EvaluationConfig(changes=1), 3)
    assert plan is not None
    assert len(plan.times) == 20
    sizes = {later - earlier for earlier, later in pairwise((*plan.times, 50))}
    assert sizes == {2, 3}
    values = torch.arange(100.0).view(100, 1, 1)
    pooled = plan.pooled(values)[0, :, 0, 0]
    weights = torch.tensor([b - a for a, b in pairwise((*plan.times, 50))])
    assert (pooled * weights).sum() / 50 == pytest.approx(74.5)


@pytest.mark.parametrize("every", ["100 steps", "geometric 0.01"])
def test_changes_that_are_farther_apart_than_an_episode_is_long_come_between_episodes(every):
    plan = plan_lives(Counter(True), changing(every), EvaluationConfig(), 3)
    assert plan is not None
    assert plan.changes.config.every == "25 episodes"


def test_oracles_are_not_measured_where_tasks_change(build_agent):
    family = changing("3 episodes")
    with pytest.raises(UserError, match="cannot follow changes"):
        measured(family, build_agent("scripted", family.spec))


def test_how_an_agent_learned_is_told_and_agents_compare_nevertheless(tmp_path):
    family = changing("4 episodes")
    results = [
        measured(family, Counter(shared), changes=1, goals=1, **settings)
        for shared, settings in (
            (False, {}),
            (True, {}),
            (True, {"relearn": "always"}),
            (True, {"adaptation_steps": 0}),
        )
    ]
    assert len({result.fingerprint for result in results}) == 1
    assert [result.protocol["learning"] for result in results] == [
        "memory",
        "after_a_drop-1-times-from-3",
        "always-from-3",
        "never",
    ]
    assert len({Evaluations(tmp_path).save(result).name for result in results}) == 4


@pytest.mark.parametrize("config", [{"actions": "deterministic"}, {"evaluation_episodes": 3}])
def test_what_lives_are_not_measured_by_is_refused(config):
    with pytest.raises(UserError, match="where tasks change"):
        measured(changing("3 episodes"), Counter(True), **config)


def result_of(curve):
    """A result of 30 tasks that all have this curve, but for a level of their own."""
    level = np.linspace(-1, 1, 30)[None, None, :, None]
    scores = np.asarray(curve, dtype=float)[None, :, None, None] + level
    return EvalResult(
        ("a",) * 30,
        tuple(range(30)),
        {"episode_return": scores},
        (RETURN,),
        tuple(range(len(curve))),
        {
            "since_the_change_in": "episodes",
            "split": "test",
            "between_changes": len(curve),
        },
        0,
        0,
    )


def test_recovery_is_when_all_but_a_tenth_of_the_drop_is_made_good():
    found = recovery(result_of([-10.0, -6.0, -3.5, -0.9, 0.0]))
    assert found is not None
    assert found.drop.value == pytest.approx(10)
    assert found.after == 3
    assert "after 3 episodes" in found.told
    flat = recovery(result_of([0.0, 0.0, 0.0]))
    assert flat is not None
    assert flat.after == 0
    assert "nothing that is certain" in flat.told


def test_the_best_checkpoint_is_best_at_all_times_by_how_long_each_lasts():
    early, late = result_of([1.0, 1.0, 1.0]), result_of([-5.0, 0.0, 1.5])
    assert early.rank() > late.rank()
    long_last = replace(late, protocol={**late.protocol, "between_changes": 100})
    assert long_last.rank()[-1] == pytest.approx((-5.0 + 0.0 + 98 * 1.5) / 100)


def test_tasks_change_from_the_command_line(meta_rl, small_config, tmp_path, run_at, identical):
    """Train, resume bit for bit, evaluate, compare, report and adapt where tasks change."""
    change = {"every": "2 episodes"}
    for name, iterations in (("whole", 2), ("half", 1)):
        config = small_config("rl2_ppo", name=name, meta_iterations=iterations, change=change)
        meta_rl("train", config).succeeds()
    meta_rl("train", "--resume", "runs/half", "--meta-iterations", 2).succeeds()
    half, whole = (run_at(tmp_path / "runs" / name).latest for name in ("half", "whole"))
    assert identical(half["agent"], whole["agent"])
    assert identical(half["streams"], whole["streams"])

    stationary = small_config("maml_trpo", name="maml")
    meta_rl("train", stationary).succeeds()
    told = meta_rl("evaluate", "runs/maml", "--change-every", "2 episodes").succeeds().out
    assert "episodes since the change" in told
    compared = meta_rl("compare", "runs/whole", "runs/maml").succeeds()
    assert "episodes since the change" in compared.out
    meta_rl("report", "runs/whole", "--output", "report.html").succeeds()
    page = (tmp_path / "report.html").read_text()
    assert "Tasks change while agents learn them" in page
    flags = "--rounds", 2, "--watch", 2, "--change-every", "3 episodes"
    adapted = meta_rl("adapt", "runs/maml", *flags).succeeds()
    became = re.findall(r"changed: the task is now (point:\d+)", adapted.out)[-1]
    (policy,) = (tmp_path / "runs/maml/adapted").glob("*.pt")
    assert checkpoint.load(policy)["metadata"]["task"] == became
    meta_rl("adapt", "runs/maml", "--goal", 1, "--video", "f.png", *flags[4:]).succeeds()
    meta_rl("train", small_config(change={"every": "often"})).fails_with("change.every", "often")
