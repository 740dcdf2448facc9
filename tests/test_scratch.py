import importlib.util
from pathlib import Path

import numpy as np
import pytest

import envs
from meta_rl.core.errors import UserError
from meta_rl.evaluation.finished import load_run
from meta_rl.evaluation.folder import Wanted
from meta_rl.evaluation.result import EvalResult
from meta_rl.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scratch():
    """scripts/scratch.py as a module."""
    spec = importlib.util.spec_from_file_location("scratch", ROOT / "scripts" / "scratch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result_of(folder):
    (path,) = (folder / "evaluations").glob("*.json")
    return EvalResult.load(path)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_it_learns_from_exactly_its_budget(scratch, algorithm):
    vec = envs.make_sb3("point_navigation", num_envs=1, horizon=20)
    model = scratch.make_model(algorithm, vec, horizon=20, budget=3, seed=0)
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 20
    model.learn(2 * 20, reset_num_timesteps=False)
    assert model.num_timesteps == 3 * 20
    vec.close()


def test_it_learns_from_episodes_of_a_prime_length(scratch):
    vec = envs.make_sb3("t_maze", num_envs=1, horizon=67)
    model = scratch.make_model("ppo", vec, horizon=67, budget=1, seed=0)
    model.learn(67)
    assert model.num_timesteps == 67
    vec.close()


def test_a_result_is_compared_with_an_agents_of_the_same_protocol(
    scratch, meta_rl, small_config, tmp_path
):
    config = small_config(
        "multitask_ppo",
        envs={"horizon": 20},
        evaluation={"copies": 4, "evaluation_episodes": 2, "goals": 2},
    )
    meta_rl("train", config).succeeds()
    args = scratch.Args(str(config), threads=1)  # all that matters is in the config
    folder = scratch.main(args)

    ours = result_of(tmp_path / "runs" / "small")
    result = result_of(folder)
    assert result.protocol == ours.protocol and result.index == ours.index
    assert result.adaptation_episodes == (0, 4) == ours.adaptation_episodes
    assert result.env_steps == 0 and result.scores["episode_return"].shape == (1, 2, 2, 2)
    assert (result.scores["episode_return"] < 0).all() and np.isfinite(
        result.scores["success"]
    ).all()
    compared = meta_rl("compare", "runs/small", folder, "--format", "csv").succeeds()
    assert "small-sb3_ppo" in compared.out and "probability_of_improvement" in compared.out
    assert load_run(folder, Wanted()).wall_time_s > 0
    made_with = RunFolder(folder).environment()
    assert made_with["command"].startswith("python scripts/scratch.py")
    assert "stable_baselines3" in made_with
    with pytest.raises(UserError, match="exists already"):
        scratch.main(args)
    (folder / "config.yaml").write_text("agent: {name: sb3_ppo}")
    meta_rl("compare", folder).fails_with("config.yaml lacks envs, name, seed")


def test_it_repeats_itself_and_measures_each_budget_on_the_way(scratch, small_config):
    def returns(seed, episodes):
        args = scratch.Args(
            str(small_config("random", envs={"horizon": 20}, threads=1)),
            episodes=episodes,
            actions="deterministic",
            goals=1,
            seed=seed,
            threads=1,
        )
        return scratch.train_and_measure(args)[1].scores["episode_return"][0, :, 0]

    first = returns(0, (2, 4))
    assert len(np.unique(first[:, 0])) == 3  # it has learned something from each
    np.testing.assert_array_equal(first, returns(0, (2, 4)))
    np.testing.assert_array_equal(first[[0, 2]], returns(0, (4,)))  # measuring disturbs nothing
    assert (first[1:] != returns(1, (2, 4))[1:]).all()  # untrained, no mode leaves the origin
    assert (first == first[:, :1]).all()  # one mode, one episode


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"episodes": (10, 10)}, "--episodes must be above 0 and rise"),
        ({"episodes": ()}, "--episodes must be above 0 and rise"),
        ({"evaluation_episodes": 0}, "--evaluation-episodes must be at least 1"),
    ],
)
def test_impossible_budgets_are_refused(scratch, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        scratch.Args("point_navigation_random", **settings)
