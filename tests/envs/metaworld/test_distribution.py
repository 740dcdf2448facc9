import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import quick

from envs.metaworld import TASK_NAMES, Config, build, goals
from envs.metaworld.gymnasium_face import MetaworldFamily
from meta_rl.core.errors import UserError
from meta_rl.core.types import Tasks
from meta_rl.rollouts.gymnasium.worker import WorldTask

CPU = torch.device("cpu")
QUICK = ("reach-v3", "faucet-close-v3", "hand-insert-v3", "lever-pull-v3")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keep the goals of this module's tests in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def reach(cache):
    return build(Config())


@pytest.fixture(scope="module")
def ml10(cache):
    return build(Config(benchmark="ML10"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def play(distribution, tasks, copies, workers, before=None, steps=12):
    """Return all that a short rollout brings, optionally after one of other tasks."""
    env = distribution.make_env(CPU, workers)
    if before is not None:
        env.start(before, copies=1, seed=3)
        for _ in range(30):
            env.step(torch.ones(len(before), 1, 4))
    seen = [env.start(tasks, copies, seed=0)]
    noise = generator()
    for _ in range(steps):
        step = env.step(torch.rand(len(tasks), copies, 4, generator=noise) * 2 - 1)
        seen += [step.next_obs, step.reward, step.truncated, step.metrics["success"]]
        seen.append(env.reset_ended())
    env.close()
    return seen


def episode(env, steps=20, seed=0):
    """Return observations, rewards and successes of one episode of random actions."""
    random = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    seen = [obs]
    for _ in range(steps):
        obs, reward, _, _, info = env.step(random.uniform(-1, 1, 4).astype(np.float32))
        seen += [obs, reward, info["success"]]
    return np.hstack(seen)


def test_task_names_are_those_of_metaworld():
    import metaworld

    assert list(TASK_NAMES) == metaworld.ML1.ENV_NAMES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "raech-v3"}, "no task 'raech-v3' in Meta-World; did you mean 'reach-v3'?"),
        ({"benchmark": "ml10"}, "no benchmark 'ml10' .*[Tt]here are: ML1, ML10, ML25, ML45"),
        ({"benchmark": "ML11"}, "did you mean 'ML1"),
        ({"reward_version": "v3"}, "no reward_version 'v3' .*[Tt]here are: v1, v2"),
        ({"horizon": 501}, "horizon must be between 1 and 500, got 501"),
        ({"goal_seed": -1}, "goal_seed must be between"),
    ],
)
def test_a_setting_that_does_not_exist_is_answered_with_what_does(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)


@pytest.mark.parametrize("name", ["reach-v3", "faucet-open-v3", "hand-insert-v3"])
def test_goals_are_those_of_metaworld_itself(name):
    import metaworld

    benchmark = metaworld.ML1(name, seed=5)
    tasks = [*benchmark.train_tasks, *benchmark.test_tasks]
    expected = np.array([pickle.loads(task.data)["rand_vec"] for task in tasks])

    distribution = build(Config(task=name, goal_seed=5))

    params = torch.cat([distribution.tasks("train").params, distribution.tasks("test").params])
    np.testing.assert_array_equal(params.numpy(), expected)


def test_train_and_test_goals_are_disjoint_and_numbered_apart(reach):
    train, test = reach.tasks("train"), reach.tasks("test")
    assert train.index.tolist() == list(range(50))
    assert test.index.tolist() == list(range(50, 100))
    goals = torch.cat([train.params, test.params])
    assert len(goals.unique(dim=0)) == 100


def test_validation_goals_are_new_ones_of_the_training_classes(reach, ml10):
    for family in (reach, ml10, build(Config(train_goal_sets=3))):
        splits = [family.tasks(split) for split in ("train", "test", "validation")]
        train, _, validation = splits
        assert dict.fromkeys(validation.names) == dict.fromkeys(train.names)
        assert set(Counter(validation.names).values()) == {50}
        known = {(task.name, task.params) for tasks in splits for task in tasks}
        assert len(known) == sum(map(len, splits))  # not even one goal twice
        labels = {task.label for tasks in splits for task in tasks}
        assert len(labels) == len(known)
    more, first = build(Config(train_goal_sets=3)).tasks("validation"), reach.tasks("validation")
    assert torch.equal(more.params, first.params)  # however much there is to train on
    assert first.index.tolist() == list(range(100, 150)) and int(more.index[0]) == 3 * 50 + 50


@pytest.mark.parametrize("goal_seed", [0, 5, 2**31 - 3, 2**31 - 2, 2**31 - 1, 2**32 - 2])
def test_the_seed_of_validation_goals_draws_no_other_goals(goal_seed, monkeypatch):
    drawn = []
    monkeypatch.setattr(goals, "_goal_set", lambda config: drawn.append(config) or {"train": {}})
    goals.validation_goals(Config(goal_seed=goal_seed))
    (config,) = drawn
    apart = config.goal_seed - goal_seed
    assert apart not in (0, 1) and not (apart > 0 and apart % 2 == 0)  # those of train_goal_sets
    assert 0 <= config.goal_seed <= 2**32 - 2


def test_the_goals_of_the_benchmarks_are_what_recorded_results_were_measured_on(reach, ml10):
    assert reach.protocol()["goals"] == "f9603441a22a"
    assert ml10.protocol()["goals"] == "09b2d81902d0"
    assert build(Config(train_goal_sets=2)).protocol()["goals"] == "a8035cad4445"


def test_a_cache_is_used_when_good_rebuilt_when_bad_and_not_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    draw, drawn = goals._draw_goals, []
    monkeypatch.setattr(goals, "_draw_goals", lambda config: drawn.append(config) or draw(config))
    first = build(Config())
    assert build(Config()).protocol() == first.protocol()
    assert len(drawn) == 1

    (cached,) = tmp_path.rglob("*.json")
    for broken in ("", "[]", '{"train": {"reach-v3": [[1]]}, "test": {}}'):
        cached.write_text(broken)
        assert build(Config()).protocol() == first.protocol()
    assert len(drawn) == 4
    assert json.loads(cached.read_text())["train"].keys() == {"reach-v3"}

    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(not_a_folder))
    assert build(Config()).protocol() == first.protocol()


def test_of_what_metaworld_holds_out_only_one_class_of_ml25_is_trained_on():
    """As the help says; where a later metaworld differs, it must say so, too."""
    from metaworld import env_dict

    for benchmark, shared in {"ML10": set(), "ML25": {"basketball-v3"}, "ML45": set()}.items():
        classes = getattr(env_dict, f"{benchmark}_V3")
        assert classes["train"].keys() & classes["test"].keys() == shared


@pytest.mark.parametrize(
    ("benchmark", "train_classes"),
    [
        ("ML10", 10),
        pytest.param("ML25", 25, marks=pytest.mark.thorough),
        pytest.param("ML45", 45, marks=pytest.mark.thorough),
    ],
)
def test_a_benchmark_has_its_classes_with_fifty_goals_each(benchmark, train_classes):
    distribution = build(Config(benchmark=benchmark))
    train, test = distribution.tasks("train"), distribution.tasks("test")
    assert sorted(Counter(train.names).values()) == [50] * train_classes
    assert sorted(Counter(test.names).values()) == [50] * 5
    labels = [task.label for task in [*train, *test]]
    assert len(set(labels)) == len(labels)
    assert train.params.shape[1] == 6


def test_a_sample_is_balanced_over_classes_in_their_order_without_repetition(ml10):
    classes = list(dict.fromkeys(ml10.tasks("train").names))
    tasks = ml10.sample(23, "train", generator())

    counts = Counter(tasks.names)
    assert sorted(counts.values()) == [2] * 7 + [3] * 3
    assert list(tasks.names) == [name for name in classes for _ in range(counts[name])]
    assert len({task.label for task in tasks}) == 23
    again = ml10.sample(23, "train", generator())
    assert [task.label for task in again] == [task.label for task in tasks]
    other = ml10.sample(23, "train", generator(1))
    assert [task.label for task in other] != [task.label for task in tasks]


def test_a_sample_of_everything_is_possible_and_of_more_is_a_user_error(ml10):
    assert len({task.label for task in ml10.sample(500, "train", generator())}) == 500
    message = "meta_batch_size 501 is more than the 500 train tasks of ML10; lower meta_batch_size"
    with pytest.raises(UserError, match=message):
        ml10.sample(501, "train", generator())
    with pytest.raises(UserError, match="meta_batch_size must be at least 1, got 0"):
        ml10.sample(0, "train", generator())


def test_sampled_tasks_are_tasks_of_the_split(ml10):
    known = {task.label: task for task in ml10.tasks("test")}
    for task in ml10.sample(20, "test", generator()):
        assert task == known[task.label]


def test_the_protocol_tells_apart_what_numbers_depend_on(reach):
    protocol = reach.protocol()
    assert protocol["benchmark"] == "ML1"
    assert protocol["task"] == "reach-v3"
    assert {"reward_version", "horizon", "metaworld", "mujoco"} < protocol.keys()
    other = build(replace(Config(), goal_seed=1)).protocol()
    assert other["goals"] != protocol["goals"]
    assert json.loads(json.dumps(protocol)) == protocol


def test_the_goal_is_hidden_and_the_horizon_truncates():
    distribution = build(Config(horizon=4))
    seen = play(distribution, distribution.sample(2, "train", generator()), 1, 1, steps=9)
    obs, truncated = seen[1::5], seen[3::5]
    assert all((each[..., 36:39] == 0).all() for each in [seen[0], *obs])
    assert [each.all().item() for each in truncated] == [*([False] * 3), True] * 2 + [False]


def test_rollouts_do_not_depend_on_workers_or_history(ml10):
    tasks = ml10.tasks("train")[[0, 120, 460]]  # reach, pick-place, basketball
    expected = play(ml10, tasks, copies=2, workers=2)
    before = ml10.tasks("train")[[3, 30, 121, 462, 463]]
    torch.testing.assert_close(
        play(ml10, tasks, copies=2, workers=1, before=before), expected, rtol=0, atol=0
    )
    assert torch.equal(expected[0][:, 0], expected[0][:, 1])  # copies begin alike


@pytest.mark.parametrize("reward_version", ["v1", "v2"])
@pytest.mark.parametrize("name", quick(TASK_NAMES, QUICK))
def test_a_retasked_environment_repeats_a_fresh_one(name, reward_version):
    tasks = [WorldTask(t.name, t.index, t.params) for t in build(Config(task=name)).tasks("train")]
    family = MetaworldFamily(reward_version, {name: len(tasks[0].params)})
    fresh, used = family.make(name), family.make(name)
    family.assign(fresh, tasks[0])
    for seed, task in enumerate(tasks[1:3]):
        family.assign(used, task)
        episode(used, steps=40, seed=seed)
    family.assign(used, tasks[0])
    expected = episode(fresh)
    np.testing.assert_array_equal(episode(used), expected)
    np.testing.assert_array_equal(episode(fresh), expected)


def test_reward_versions_differ_and_observations_do_not(reach):
    tasks = reach.sample(1, "train", generator())
    v2 = play(reach, tasks, 1, 1, steps=1)
    v1 = play(build(Config(reward_version="v1")), tasks, 1, 1, steps=1)
    assert torch.equal(v1[1], v2[1])
    assert not torch.equal(v1[2], v2[2])


def test_further_training_goals_leave_the_benchmarks_own_where_they_are() -> None:
    usual = build(Config(task="reach-v3"))
    more = build(Config(task="reach-v3", train_goal_sets=2))
    assert len(more.tasks("train")) == 100
    assert torch.equal(more.tasks("train").params[:50], usual.tasks("train").params)
    assert torch.equal(more.tasks("test").params, usual.tasks("test").params)
    everything = torch.cat([more.tasks("train").params, more.tasks("test").params])
    assert len(everything.unique(dim=0)) == 150
    assert len({*more.tasks("train").index.tolist(), *more.tasks("test").index.tolist()}) == 150
    assert more.protocol() != usual.protocol()


def test_meta_world_tests_on_the_training_goals_of_the_next_seed() -> None:
    """Why `train_goal_sets` takes every other seed."""
    next_seed = build(Config(task="reach-v3", goal_seed=1))
    test = build(Config(task="reach-v3")).tasks("test")
    assert torch.equal(next_seed.tasks("train").params, test.params)


@pytest.mark.parametrize("simulator", ["native", "gymnasium"])
def test_a_goal_that_meta_world_would_draw_for_ever_is_refused(simulator) -> None:
    distribution = build(Config(task="push-v3", simulator=simulator))
    (task,) = distribution.tasks("test")[:1]
    beside = (*task.params[:3], task.params[0], task.params[1] + 0.01, 0.01)
    env = distribution.make_env(CPU, workers=1)
    with pytest.raises(UserError, match=r"push-v3 refuses the goal .* move them apart"):
        env.start(Tasks.stack([replace(task, params=beside)]), copies=1, seed=0)
    env.close()
