"""Tasks that change: when, into what, and what the worlds' simulators make of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs import bandits, metaworld, point_navigation, tabular_mdp, two_step
from meta_rl.core.change import ChangeConfig
from meta_rl.core.errors import UserError
from meta_rl.core.lives import CHANGED, Changes, Changing, Course
from meta_rl.core.protocols import ChangingTaskEnv, EnvDistribution, Split
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Phase, Tasks
from meta_rl.experiment.building import build_agent
from meta_rl.experiment.config import experiment_from_dict
from meta_rl.rollouts.adaptation import Adaptation, rollout_of

CPU = torch.device("cpu")
NAVIGATION = point_navigation.Config(horizon=5, test_goals=6, validation_goals=3)


def navigation(**change: Any) -> Changes:
    """Changes of 2-D navigation."""
    return Changes(point_navigation.build(NAVIGATION), ChangeConfig(**change))


def times(course: Course, until: int) -> list[list[int]]:
    """Return when each task changes, up to a time."""
    numbers = [course.changes_by(torch.full((len(course.tasks), 1), t)) for t in range(until + 1)]
    steps = torch.stack(numbers).squeeze(-1).diff(dim=0, prepend=torch.zeros(1, len(course.tasks)))
    return [steps[:, row].nonzero().flatten().tolist() for row in range(steps.shape[1])]


def test_regular_changes_come_regularly_and_begin_anywhere_in_training() -> None:
    changes = navigation(every="3 episodes")
    tasks = changes.distribution.sample(40, "train", torch.Generator().manual_seed(0))
    assert times(Course(changes, tasks, 0, anywhere=False), 10) == [[3, 6, 9]] * 40
    began = Counter(when[0] for when in times(Course(changes, tasks, 0, anywhere=True), 10))
    assert set(began) == {1, 2, 3}
    assert all(
        np.diff(when).tolist() == [3] * (len(when) - 1)
        for when in times(Course(changes, tasks, 0, anywhere=True), 10)
    )


def test_random_changes_come_with_their_chance() -> None:
    changes = navigation(every="geometric 0.1")
    tasks = changes.distribution.tasks("test")
    found = times(Course(changes, tasks, 0, anywhere=True), 2000)
    rate = np.mean([len(when) / 2000 for when in found])
    assert rate == pytest.approx(0.1, abs=0.01)


def test_what_a_task_becomes_depends_on_it_and_the_seed_alone() -> None:
    changes = navigation(every="1 episode")
    tasks = changes.distribution.tasks("test")
    together = Course(changes, tasks, 7, anywhere=True)
    alone = Course(changes, tasks[[2]], 7, anywhere=True)
    assert [together.task(2, k) for k in range(5)] == [alone.task(0, k) for k in range(5)]
    assert times(together, 9)[2] == times(alone, 9)[0]
    other = Course(changes, tasks[[2]], 8, anywhere=True)
    assert [other.task(0, k) for k in range(5)] != [alone.task(0, k) for k in range(5)]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_redrawn_task_is_another_one_of_its_split(split: Any) -> None:
    changes = navigation(every="1 episode")
    tasks = changes.distribution.sample(3, split, torch.Generator().manual_seed(1))
    held_outs: tuple[Split, ...] = ("test", "validation")
    fixed = {each: {t.label for t in changes.distribution.tasks(each)} for each in held_outs}
    course = Course(changes, tasks, 0, anywhere=False)
    for row in range(3):
        became = [course.task(row, k) for k in range(6)]
        assert all(one.params != next_one.params for one, next_one in pairwise(became))
        for held_out, labels in fixed.items():
            assert all((task.label in labels) == (held_out == split) for task in became)


def test_a_drifting_task_goes_straight_from_task_to_task() -> None:
    changes = navigation(every="1 episode", how="drift", drift=0.25)
    tasks = changes.distribution.tasks("test")
    labels = {task.label for task in tasks}
    course = Course(changes, tasks[[0]], 0, anywhere=False)
    path = np.array([course.task(0, k).params for k in range(9)])
    assert [course.task(0, k).label in labels for k in (0, 4, 8)] == [True] * 3
    steps = np.diff(path, axis=0)
    np.testing.assert_allclose(steps[:4], np.tile(steps[0], (4, 1)), atol=1e-12)
    np.testing.assert_allclose(steps[4:], np.tile(steps[4], (4, 1)), atol=1e-12)
    assert not np.allclose(steps[0], steps[4])


def test_a_sequence_goes_through_the_names_in_order() -> None:
    family = metaworld.build(metaworld.Config(benchmark="ML10"))
    changes = Changes(family, ChangeConfig(every="1 episode", how="sequence"))
    tasks = family.tasks("test")
    names = list(dict.fromkeys(tasks.names))
    course = Course(changes, tasks[[0]], 0, anywhere=False)
    became = [course.task(0, k) for k in range(2 * len(names))]
    assert [task.name for task in became] == names * 2
    assert [task.index - became[0].index for task in became] == [0] * 5 + [1] * 5


@pytest.mark.parametrize("every", ["3 episodes", "3 episode", "3.0  episodes"])
def test_one_meaning_has_one_spelling_and_so_one_protocol(every: str) -> None:
    assert ChangeConfig(every=every) == ChangeConfig(every="3 episodes")


@pytest.mark.parametrize(
    ("every", "told"),
    [
        ("", "change.every"),
        ("5", "change.every"),
        ("0 episodes", "change.every"),
        ("1.5 steps", "change.every"),
        ("nan steps", "change.every"),
        ("inf steps", "change.every"),
        ("five episodes", "change.every"),
        ("5 years", "change.every"),
        ("geometric 1.5", "change.every"),
        ("geometric", "change.every"),
        ("-3 episodes", "change.every"),
    ],
)
def test_nonsense_is_refused(every: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ChangeConfig(every=every)


def test_a_drift_without_way_is_refused() -> None:
    with pytest.raises(UserError, match=r"change\.drift"):
        ChangeConfig(every="1 episode", how="drift", drift=0.0)
    family = two_step.build(two_step.Config())
    with pytest.raises(UserError, match="cannot drift"):
        Changing(family, ChangeConfig(every="1 episode", how="drift"))


FAMILIES: dict[str, Callable[[], EnvDistribution]] = {
    "point_navigation": lambda: point_navigation.build(NAVIGATION),
    "metaworld": lambda: metaworld.build(metaworld.Config(task="push-v3", horizon=4)),
    "metaworld_gymnasium": lambda: metaworld.build(
        metaworld.Config(task="push-v3", horizon=4, simulator="gymnasium")
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_world_that_became_another_task_is_as_one_that_began_with_it(name: str) -> None:
    """Copies 0 and 1 of the first task become the second one between episodes."""
    family = FAMILIES[name]()
    tasks, env = family.tasks("test")[:2], family.make_env(CPU, 1)
    assert isinstance(env, ChangingTaskEnv)
    generator = torch.Generator().manual_seed(0)
    horizon, size = family.spec.horizon, family.spec.action_size
    actions = torch.randn(2 * horizon, 1, 2, size, generator=generator).expand(-1, 2, -1, -1)
    try:
        env.start(tasks, 2, seed=3)
        for t in range(horizon):
            step = env.step(actions[t])
        assert (step.terminated | step.truncated).all()
        env.change([0, 1], tasks[[1, 1]])
        obs = env.reset_ended()
        rewards = []
        for t in range(horizon, 2 * horizon):
            torch.testing.assert_close(obs[0], obs[1])
            step = env.step(actions[t])
            rewards.append(step.reward)
            obs = step.next_obs
    finally:
        env.close()
    for reward in rewards:
        torch.testing.assert_close(reward[0], reward[1], rtol=0, atol=0)


def a_task(family: EnvDistribution, params: Sequence[float]) -> Tasks:
    """Return a task of the test split with other numbers."""
    first = family.tasks("test")[[0]]
    width = first.params.shape[1]
    filled = [*params, *[params[-1]] * (width - len(params))]
    return replace(first, params=torch.tensor([filled], dtype=torch.float64))


@pytest.mark.parametrize("family", ["bandits", "tabular_mdp", "two_step"])
def test_a_world_of_chance_becomes_another_within_an_episode(family: str) -> None:
    """Between tasks whose rewards tell them apart, whatever chance does."""
    built: EnvDistribution
    if family == "bandits":
        built = bandits.build(bandits.Config(horizon=8))
        low, high, worth = a_task(built, [0.0]), a_task(built, [1.0]), 1.0
    elif family == "tabular_mdp":
        built = tabular_mdp.build(tabular_mdp.Config(horizon=8))
        chances = [0.1] * 500
        low = a_task(built, [0.0] * 50 + chances)
        high, worth = a_task(built, [100.0] * 50 + chances), 80.0
    else:
        built = two_step.build(two_step.Config(horizon=8, high=1.0, common=1.0, swap=0.0))
        low, high, worth = a_task(built, [0.1]), a_task(built, [0.9]), 1.0
    env = built.make_env(CPU, 1)
    assert isinstance(env, ChangingTaskEnv)
    action = torch.zeros(1, 2, built.spec.action_size)
    action[..., 0] = 1.0
    env.start(low, 2, seed=0)
    rewards = []
    for t in range(8):
        if t == 4:
            env.change([1], high)
        rewards.append(env.step(action).reward[0])
        env.reset_ended()
    earned = torch.stack(rewards) >= worth
    assert not earned[:, 0].any()
    assert not earned[:4, 1].any()
    assert earned[4:, 1].sum() == (2 if family == "two_step" else 4)


def rewards_of(change_at: int | None, back_at: int | None = None) -> tuple[Tensor, Tensor]:
    """Play an episode of reach-v3 whose goal may change on the way; return what it showed."""
    family = metaworld.build(metaworld.Config(task="reach-v3", horizon=30))
    tasks, env = family.tasks("test")[:2], family.make_env(CPU, 1)
    assert isinstance(env, ChangingTaskEnv)
    assert env.changes_within_episodes
    action = torch.tensor([0.5, 1.0, -0.2, 0.0]).view(1, 1, 4)
    try:
        env.start(tasks[[0]], 1, seed=0)
        rewards, seen = [], []
        for t in range(30):
            if t in (change_at, back_at):
                env.change([0], tasks[[1 if t == change_at else 0]])
            step = env.step(action)
            rewards.append(step.reward)
            seen.append(step.next_obs)
    finally:
        env.close()
    return torch.stack(rewards).flatten(), torch.stack(seen).squeeze()


def test_a_goal_that_moves_within_an_episode_leaves_the_robot_where_it_is() -> None:
    never, obs = rewards_of(None)
    moved, obs_moved = rewards_of(10)
    there_and_back, _ = rewards_of(10, 20)
    torch.testing.assert_close(obs, obs_moved, rtol=0, atol=0)
    torch.testing.assert_close(moved[:10], never[:10], rtol=0, atol=0)
    assert (moved[10:] != never[10:]).all()
    torch.testing.assert_close(there_and_back[20:], never[20:], rtol=0, atol=0)


def agent_and_family(every: str, agent: str, how: str = "redraw") -> tuple[Any, Changing]:
    """Return an agent and 2-D navigation that changes."""
    experiment = experiment_from_dict(
        {
            "agent": {"name": agent},
            "envs": {"name": "point_navigation", "horizon": 5},
            "change": {"every": every, "how": how},
        },
        "here",
    )
    family = Changing(point_navigation.build(experiment.envs), experiment.change)
    return build_agent(experiment, family.spec, CPU), family


def test_copies_that_learn_together_live_one_after_the_other() -> None:
    """4 copies of an episode each are 4 episodes of one world, so that half have the next goal."""
    agent, family = agent_and_family("2 episodes", "maml_trpo")
    collector = family.make_collector(CPU, 1)
    streams = Streams(0, CPU)
    tasks = family.tasks("test")[:3]
    adaptation = Adaptation(agent, collector, tasks, 4, streams)
    played = rollout_of(adaptation.play(Phase(1)))
    assert adaptation.life is not None
    course = adaptation.life.course
    number = torch.tensor([0, 0, 1, 1])
    for row in range(3):
        goals = torch.tensor([course.task(row, int(k)).params for k in number])
        distance = (played.next_obs[:, row] - goals.float()).norm(dim=-1)
        torch.testing.assert_close(played.reward[:, row], -distance)
    assert played.metrics[CHANGED].sum(0).tolist() == [[0, 0, 1, 0]] * 3
    assert adaptation.life.time.tolist() == [[4] * 4] * 3


def test_a_measurement_shows_the_task_as_it_is_and_time_stands_still() -> None:
    agent, family = agent_and_family("1 episode", "maml_trpo")
    adaptation = Adaptation(
        agent, family.make_collector(CPU, 1), family.tasks("test")[:2], 2, Streams(0, CPU)
    )
    adaptation.play(Phase(1))
    before = adaptation.life
    measured = rollout_of(adaptation.measure(Phase(3), copies=4, remembering=False))
    assert adaptation.life is before
    assert before is not None
    assert measured.metrics[CHANGED].sum() == 0
    for row in range(2):
        goal = torch.tensor(before.course.task(row, 2).params).float()
        distance = (measured.next_obs[:, row] - goal).norm(dim=-1)
        torch.testing.assert_close(measured.reward[:, row], -distance)


def test_separate_lives_count_the_steps_that_they_took() -> None:
    agent, family = agent_and_family("7 steps", "rl2_ppo")
    adaptation = Adaptation(
        agent, family.make_collector(CPU, 1), family.tasks("test")[:2], 3, Streams(0, CPU)
    )
    played = rollout_of(adaptation.play(Phase(3)))
    assert adaptation.life is not None
    assert adaptation.life.time.tolist() == played.valid.sum(0).tolist()
    assert played.metrics[CHANGED].nonzero()[:, 0].unique().tolist() == [7, 14]


def test_oracles_cannot_follow_changes() -> None:
    experiment = experiment_from_dict(
        {"agent": {"name": "scripted"}, "envs": {"name": "point_navigation"}}, "here"
    )
    _, family = agent_and_family("1 episode", "rl2_ppo")
    agent = build_agent(experiment, family.spec, CPU)
    with pytest.raises(UserError, match="cannot follow changes"):
        Adaptation(agent, family.make_collector(CPU, 1), family.tasks("test"), 1, Streams(0, CPU))


def test_a_task_that_is_there_twice_has_two_lives() -> None:
    changes = navigation(every="geometric 0.3")
    tasks = changes.distribution.tasks("test")[[0, 0]]
    course = Course(changes, tasks, 0, anywhere=True)
    first, second = times(course, 50)
    assert first != second
    assert [course.task(0, k) for k in range(6)] != [course.task(1, k) for k in range(6)]


def test_several_names_refuse_changes_within_episodes() -> None:
    family = metaworld.build(metaworld.Config(benchmark="ML10"))
    changing = Changing(family, ChangeConfig(every="100 steps"))
    with pytest.raises(UserError, match="10 task names"):
        changing.make_collector(CPU, 1)


def test_worker_processes_refuse_changes_within_episodes() -> None:
    family = metaworld.build(metaworld.Config(task="reach-v3", simulator="gymnasium"))
    changing = Changing(family, ChangeConfig(every="geometric 0.01"))
    with pytest.raises(UserError, match="only between them"):
        changing.make_collector(CPU, 1)


def test_both_simulators_change_alike() -> None:
    """Classes change too, and with them the models."""
    rewards = []
    for simulator in ("native", "gymnasium"):
        family = metaworld.build(
            metaworld.Config(benchmark="ML10", horizon=6, simulator=simulator)  # type: ignore[arg-type]
        )
        changing = Changing(family, ChangeConfig(every="1 episode", how="sequence"))
        collector = changing.make_collector(CPU, 1)
        experiment = experiment_from_dict(
            {"agent": {"name": "rl2_ppo"}, "envs": {"name": "metaworld"}}, "here"
        )
        agent = build_agent(experiment, family.spec, CPU)
        tasks: Tasks = family.tasks("train")[[0, 120]]
        try:
            adaptation = Adaptation(agent, collector, tasks, 2, Streams(0, CPU))
            rewards.append(rollout_of(adaptation.play(Phase(3))).reward)
        finally:
            collector.close()
    torch.testing.assert_close(rewards[0], rewards[1], rtol=1e-6, atol=1e-7)
