import gc
import re
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import DictInfoToList, NormalizeReward, RecordEpisodeStatistics
from stable_baselines3.common.vec_env import VecCheckNan, VecMonitor, VecNormalize

import envs
from envs.metaworld.gymnasium_face import MetaworldFamily
from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.experiment import catalog
from meta_rl.rollouts.gymnasium.worker import WorldTask

ROOT = Path(__file__).parents[2]
HORIZON = 12


def reach(make=envs.make_vec, **settings):
    return make(**{"num_envs": 3, "horizon": HORIZON, "workers": 1} | settings)


@pytest.fixture(params=catalog.names("envs"))
def any_family(request):
    module = catalog.load("envs", request.param)
    example = getattr(module, "EXAMPLE", None) or module.Config()
    settings = {name: value for name, value in vars(example).items() if name != "horizon"}
    vec = reach(family=request.param, **settings)
    yield vec
    vec.close()


def close_to(ours, theirs):
    """Assert that two nested infos have the same keys and, to 1e-6, the same values."""
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            close_to(value, theirs[key])
        elif value.dtype == object:
            for mine, other in zip(value, theirs[key], strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_allclose(value, theirs[key], rtol=1e-6, atol=1e-6)


def metaworld_sync(tasks):
    """Metaworld's own environments on the same goals, in Gymnasium's own vector environment."""
    sizes = {"reach-v3": len(tasks.params[0])}
    family = MetaworldFamily("v2", sizes)

    def make(task):
        env = family.make(task.name)
        family.assign(env, WorldTask(task.name, task.index, task.params))
        return TimeLimit(env, HORIZON)

    makers = [lambda task=task: make(task) for task in tasks]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def test_it_agrees_with_gymnasiums_sync_vector_env_of_metaworld_step_for_step():
    ours = reach(seed=3)
    theirs = metaworld_sync(ours.tasks)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space.shape == theirs.observation_space.shape
    np.testing.assert_allclose(ours.reset()[0], theirs.reset()[0], rtol=0, atol=1e-6)
    theirs.action_space.seed(0)
    for number in range(1, 2 * HORIZON + 3):
        actions = theirs.action_space.sample()
        expected, step = theirs.step(actions), ours.step(actions)
        for mine, other in zip(step[:4], expected[:4], strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)
            assert mine.dtype == other.dtype or mine.dtype == np.float32
        assert step[3].all() == (number % HORIZON == 0)
        infos, reported = step[4], expected[4]
        if step[3].all():  # ours keeps `success` here, masked; Gymnasium has no such key then
            assert not infos.pop("success").any() and not infos.pop("_success").any()
            assert not infos.pop("diverged").any() and not infos.pop("_diverged").any()
            own_only(infos["final_info"], reported["final_info"])
        else:
            own_only(infos, reported)
        close_to(infos, {key: reported[key] for key in infos})
    ours.close()
    theirs.close()


def own_only(ours, theirs):
    """Take from both what only one of them reports: `diverged`, and metaworld's other terms."""
    ours.pop("diverged"), ours.pop("_diverged")
    for key in theirs.keys() - ours.keys():
        theirs.pop(key)


def test_any_family_keeps_gymnasiums_promises(any_family):
    vec = any_family
    assert isinstance(vec, gymnasium.vector.VectorEnv)
    assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vec.single_observation_space.shape == vec.observation_space.shape[1:]
    with pytest.raises(gymnasium.error.ResetNeeded):
        vec.step(np.zeros(vec.action_space.shape))
    obs, infos = vec.reset(seed=5)
    assert obs in vec.observation_space and infos == {}
    vec.action_space.seed(0)
    actions = [vec.action_space.sample() for _ in range(HORIZON)]
    played = [vec.step(action) for action in actions]
    obs, reward, terminated, truncated, infos = played[-1]
    assert obs in vec.observation_space and reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == np.bool_
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    assert truncated.all() and infos["_final_obs"].all()
    for metric in vec.metric_names:
        assert infos[metric].shape == (3,) and infos["final_info"][f"_{metric}"].all()
    assert all(final in vec.single_observation_space for final in infos["final_obs"])
    assert not vec.step(actions[0])[3].any()  # the next episode began
    vec.reset(seed=5)
    assert data_equivalence(played, [vec.step(action) for action in actions])
    obs[:] = 9  # what it returned is the caller's own
    assert (vec.step(actions[0])[0] != 9).all()


def test_an_ended_world_begins_again_alone():
    vec = envs.make_vec("point_navigation", num_envs=2, horizon=50)
    tasks = vec.tasks
    tasks.params[:] = torch.tensor([[0.1, 0.0], [0.4, 0.0]])
    vec.reset(options={"tasks": tasks})
    obs, _, terminated, truncated, infos = vec.step([[1.0, 0.0], [1.0, 0.0]])
    assert terminated.tolist() == [True, False] and not truncated.any()
    np.testing.assert_allclose(obs, [[0, 0], [0.1, 0]])
    np.testing.assert_allclose(infos["final_obs"][0], [0.1, 0])
    assert infos["final_obs"][1] is None and infos["_final_obs"].tolist() == [True, False]
    assert infos["final_info"]["success"].tolist() == [1, 0]
    assert infos["success"].tolist() == [0, 0] and infos["_success"].tolist() == [False, True]
    vec.close()


def test_resets_draw_other_tasks_when_asked_and_a_seed_repeats_them():
    vec = reach(seed=1)
    labels = lambda: [task.label for task in vec.tasks]  # noqa: E731
    first = labels()
    vec.reset()
    assert labels() == first
    vec.reset(options={"resample": True})
    assert labels() != first
    vec.reset(seed=1, options={"resample": True})
    assert labels() == first
    one = vec.tasks[[0, 0, 0]]
    vec.reset(options={"tasks": one})
    assert labels() == [first[0]] * 3
    vec.close()
    same = reach(tasks=one, num_envs=None)
    assert same.num_envs == 3 and same.tasks is one
    same.close()
    held_out = reach(split="test")
    assert (held_out.tasks.index >= 50).all()
    held_out.close()


def test_gymnasiums_own_simulator_has_the_same_face():
    native, reference = reach(), reach(simulator="gymnasium")
    native.action_space.seed(0)
    np.testing.assert_allclose(native.reset()[0], reference.reset()[0], rtol=0, atol=1e-6)
    for _ in range(HORIZON):
        action = native.action_space.sample()
        step, expected = native.step(action), reference.step(action)
        np.testing.assert_allclose(step[1], expected[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(step[0], expected[0], rtol=0, atol=1e-6)
    assert set(step[4]) - set(expected[4]) == {"diverged", "_diverged"}
    native.close()
    reference.close()


def test_gymnasiums_wrappers_count_whole_episodes(any_family):
    vec = DictInfoToList(NormalizeReward(RecordEpisodeStatistics(any_family)))
    vec.reset(seed=0)
    any_family.action_space.seed(0)  # a point that finds its goal by chance would end early
    for _ in range(2 * HORIZON):
        infos = vec.step(any_family.action_space.sample())[4]
    assert [info["episode"]["l"] for info in infos] == [HORIZON] * 3
    assert all(metric in info["final_info"] for info in infos for metric in any_family.metric_names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "metawrld"}, "no 'metawrld' in envs/; did you mean 'metaworld'"),
        ({"tsak": "reach-v3"}, r"make_vec\('metaworld'\): unknown key 'tsak'; did you mean 'task'"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": None}, "give the number of worlds, num_envs, or the tasks themselves"),
        ({"num_envs": 51}, "cannot draw a train task for each of num_envs=51 worlds"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        reach(**settings)


def test_mistakes_after_it_was_made_are_named():
    vec = reach()
    other = envs.make_vec("point_navigation", num_envs=3)
    with pytest.raises(UserError, match="reset has no option 'task'; did you mean 'tasks'"):
        vec.reset(options={"task": 1})
    with pytest.raises(UserError, match="2 tasks do not fit num_envs=3: one for each world"):
        vec.reset(options={"tasks": vec.tasks[:2]})
    with pytest.raises(UserError, match="tasks must be Tasks of the family metaworld"):
        vec.reset(options={"tasks": other.tasks})
    pushing = envs.make_vec("metaworld", num_envs=3, workers=1, task="push-v3")
    with pytest.raises(UserError, match="these worlds play reach-v3, not push-v3"):
        vec.reset(options={"tasks": pushing.tasks})
    pushing.close()
    with pytest.raises(UserError, match="has 5 numbers, these have 3"):
        envs.make_vec("bandits", tasks=envs.make_vec("bandits", num_envs=2, arms=3).tasks)
    vec.reset()
    with pytest.raises(UserError, match=r"actions must have shape \(3, 4\), got \(4,\)"):
        vec.step(np.zeros(4))
    with pytest.raises(NonFiniteAction, match="actions must be finite"):
        vec.step(np.full((3, 4), np.nan))
    vec.close()
    vec.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        vec.reset()


def test_choices_are_made_as_gymnasium_makes_them():
    vec = envs.make_vec("bandits", num_envs=3, seed=1, arms=2, horizon=5)
    assert vec.single_action_space == gymnasium.spaces.Discrete(2)
    vec.reset(seed=0)
    best = vec.tasks.params.argmax(1).numpy()
    assert vec.step(best)[4]["best_arm"].tolist() == [1, 1, 1]
    assert vec.step(1 - best)[4]["best_arm"].tolist() == [0, 0, 0]
    with pytest.raises(UserError, match=r"actions must be in Discrete\(2\) for each world, got 2"):
        vec.step([0, 1, 2])
    with pytest.raises(UserError, match=r"choices must be whole numbers, got \[0.9 1.  0. \]"):
        vec.step([0.9, 1.0, 0.0])
    vec.close()


def test_threads_end_with_a_vector_environment_that_nobody_holds():
    threads = threading.active_count()
    vec = reach(workers=3)
    vec.reset()
    assert threading.active_count() > threads
    del vec
    gc.collect()
    assert threading.active_count() == threads


def test_the_sb3_face_tells_the_same_in_sb3s_words():
    ours, vec = reach(seed=2), reach(envs.make_sb3, seed=2)
    np.testing.assert_array_equal(ours.reset()[0], vec.reset())
    assert vec.observation_space == ours.single_observation_space
    succeeded = np.zeros(3, dtype=bool)
    ours.action_space.seed(0)
    for number in range(1, HORIZON + 1):
        actions = ours.action_space.sample()
        expected, (obs, reward, done, infos) = ours.step(actions), vec.step(actions)
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_allclose(reward, expected[1], rtol=1e-7)
        assert reward.dtype == np.float32 and len(infos) == 3
        assert [info["TimeLimit.truncated"] for info in infos] == done.tolist()
        assert done.all() == (number == HORIZON)
        succeeded |= [info["success"] > 0 for info in infos]
    for world, info in enumerate(infos):
        np.testing.assert_array_equal(info["terminal_observation"], expected[4]["final_obs"][world])
        assert info["is_success"] == succeeded[world]
        assert info["success"] == expected[4]["final_info"]["success"][world]
    assert [task.label for task in vec.get_attr("task", [2, 0])] == [
        task.label for task in ours.tasks[[2, 0]]
    ]
    assert vec.has_attr("render_mode") and not vec.has_attr("goal")
    for refused in (lambda: vec.env_method("goal"), lambda: vec.set_attr("goal", 1)):
        with pytest.raises(AttributeError):
            refused()
    ours.close()
    vec.close()


def test_a_failure_is_no_time_limit_and_counts_as_a_success_of_the_episode():
    vec = envs.make_sb3("point_navigation", num_envs=2, horizon=2)
    tasks = vec.unwrapped._env.tasks
    tasks.params[:] = torch.tensor([[0.1, 0.0], [0.4, 0.0]])
    vec.set_options({"tasks": tasks})
    vec.reset()
    right = np.array([[1.0, 0.0]] * 2)
    _, _, done, infos = vec.step(right)
    assert done.tolist() == [True, False]
    assert infos[0]["is_success"] and not infos[0]["TimeLimit.truncated"]
    assert "terminal_observation" not in infos[1] and "is_success" not in infos[1]
    _, _, done, infos = vec.step(right)
    assert done.tolist() == [True, True] and infos[1]["TimeLimit.truncated"]
    assert not infos[1]["is_success"]
    vec.set_options([{"resample": True}, {}])
    with pytest.raises(UserError, match="options for single worlds do not exist"):
        vec.reset()
    vec.close()


def test_sb3_trains_on_it_through_its_wrappers():
    from stable_baselines3 import PPO

    vec = VecMonitor(reach(envs.make_sb3, num_envs=4))
    normalized = VecNormalize(VecCheckNan(vec, raise_exception=True))
    model = PPO("MlpPolicy", normalized, n_steps=32, batch_size=64, seed=0, device="cpu")
    before = [weights.clone() for weights in model.policy.parameters()]
    model.learn(384)
    after = list(model.policy.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(torch.isfinite(weights).all() for weights in after)
    assert {episode["l"] for episode in model.ep_info_buffer} == {HORIZON}
    assert len(model.ep_success_buffer) == len(model.ep_info_buffer) == 4 * (96 // HORIZON)
    normalized.close()


@pytest.mark.parametrize("number", [0, 1])
def test_the_documents_snippets_run(number):
    text = (ROOT / "docs" / "vector_envs.md").read_text()
    assert len(text.splitlines()) <= 40
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    exec(compile(snippets[number], f"vector_envs.md[{number}]", "exec"), {})


def test_importing_the_package_is_light_and_silent():
    code = "import sys, envs; print(sorted({'torch', 'gymnasium', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    with pytest.raises(AttributeError, match="no attribute 'make_all'"):
        _ = envs.make_all
