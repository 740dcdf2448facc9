import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load(name):
    """A module of scripts/ that the scripts share."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bandits, mdps = load("_bandit_players"), load("_mdp_players")


def chance(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("wins", "losses", "index"),
    [(0, 0, 0.7029), (0, 1, 0.5001), (1, 0, 0.8001), (1, 1, 0.6346), (2, 0, 0.8452)],
)
def test_gittins_indices_are_those_of_the_published_table(wins, losses, index):
    # Gittins, Glazebrook and Weber 2011, table 8.4: Bernoulli, discount 0.9, Beta(1, 1) first
    level = bandits.discounted_index(0.9, levels=wins + losses + 1)[wins + losses]

    assert level[wins] == pytest.approx(index, abs=5e-4)


def test_the_index_of_the_last_pull_is_the_posterior_mean_and_of_two_has_its_closed_form():
    tables = bandits.finite_index(2)

    np.testing.assert_allclose(tables[1][:2, :2], [[1 / 2, 1 / 3], [2 / 3, 1 / 2]], atol=1e-9)
    # λ with 1/2 - λ + 1/2 (2/3 - λ) = 0
    assert tables[2][0, 0] == pytest.approx(5 / 9, abs=1e-3)


def test_the_bayes_optimum_of_two_pulls_of_two_arms_has_its_closed_form():
    # Paid (1/2): again, 2/3. Not paid: the other arm, 1/2. So 1/2 + 1/2 2/3 + 1/2 1/2.
    assert bandits.bayes_optimum(arms=2, horizon=2) == pytest.approx(13 / 12)


def earned(player, arms=3, pulls=30, worlds=4000):
    """Mean return of a player on bandits from the prior."""
    draws = chance(1)
    probability = draws.random((worlds, arms))
    player = player(probability) if player is bandits.best_arm else player
    wins, losses = np.zeros((2, worlds, arms))
    for pull in range(pulls):
        arm = bandits.pick(player(wins, losses, pull, draws), draws)
        paid = draws.random(worlds) < probability[np.arange(worlds), arm]
        wins[np.arange(worlds), arm] += paid
        losses[np.arange(worlds), arm] += ~paid
    return wins.sum(1).mean()


def test_players_of_bandits_come_in_their_known_order():
    players = {
        "random": bandits.random,
        "thompson": bandits.thompson,
        "gittins": bandits.finite_gittins(30),
        "best": bandits.best_arm,
    }
    found = {name: earned(player) for name, player in players.items()}

    # The mean of the best of 3 uniform numbers is 3/4; standard errors are about 0.1.
    assert found["random"] == pytest.approx(15, abs=0.4)
    assert found["best"] == pytest.approx(22.5, abs=0.4)
    assert found["random"] + 3 < found["thompson"] < found["gittins"] - 0.3
    assert found["gittins"] < found["best"]


def test_gittins_earns_what_the_best_player_of_all_does_on_small_bandits():
    gittins = earned(bandits.finite_gittins(6), arms=2, pulls=6, worlds=200_000)

    # The standard error is about 1.6 / sqrt(200000) = 0.004. The finite index is nearly optimal.
    assert gittins == pytest.approx(bandits.bayes_optimum(2, 6), abs=0.015)


def test_ucb_tries_every_arm_first_and_epsilon_explores_as_often_as_it_says():
    wins, losses = np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    assert bandits.pick(bandits.ucb1(1.0)(wins, losses, 2, chance()), chance()) == [2]

    many = (np.repeat([[9.0, 0.0]], 20_000, 0), np.repeat([[0.0, 9.0]], 20_000, 0))
    arms = bandits.pick(bandits.epsilon_greedy(0.2)(*many, 9, chance()), chance(1))
    assert arms.mean() == pytest.approx(0.1, abs=0.01)  # half of the explorations


def test_a_belief_follows_bayes_rule():
    belief = mdps.Belief(worlds=1, states=2, actions=1)
    for after, reward in ((1, 3.0), (1, 5.0), (0, 4.0)):
        belief.learn(np.array([0]), np.array([0]), np.array([reward]), np.array([after]))

    reward, transition = belief.mean()

    assert reward[0, :, 0].tolist() == [(1 + 12) / (1 + 3), 1.0]
    assert transition[0, 0, 0].tolist() == [2 / 5, 3 / 5]
    draws = [belief.draw(chance(seed)) for seed in range(2000)]
    drawn = np.array([each[0][0, :, 0] for each in draws])
    # Normal with variances 1 / (1 + 3) and 1
    np.testing.assert_allclose(drawn.mean(0), [13 / 4, 1], atol=0.1)
    np.testing.assert_allclose(drawn.var(0), [1 / 4, 1], rtol=0.15)
    np.testing.assert_allclose(
        np.mean([each[1][0, 0, 0] for each in draws], 0), [2 / 5, 3 / 5], atol=0.02
    )


def test_an_optimistic_transition_moves_half_the_radius_to_the_best_state():
    transition = np.array([[[[0.5, 0.3, 0.2]]]])
    value = np.array([[1.0, 0.0, 10.0]])

    def mean(radius):
        return mdps.optimistic(transition, np.full((1, 1, 1), radius), value).item()

    assert mean(0.0) == pytest.approx(0.5 + 2.0)
    assert mean(0.4) == pytest.approx(0.5 + 4.0)  # 0.2 from the worst state
    assert mean(0.8) == pytest.approx(0.4 + 6.0)  # 0.3 from the worst, 0.1 from the next
    assert mean(9.0) == pytest.approx(10.0)


def test_more_samples_are_more_optimistic():
    belief = mdps.Belief(worlds=200, states=4, actions=2)
    values = [
        mdps.PosteriorSampling(samples).plan(belief, 5, chance())[0].mean() for samples in (1, 5)
    ]
    assert values[1] > values[0] + 0.5


@pytest.mark.thorough
def test_the_script_ranks_the_players_on_held_out_tasks(tmp_path, environment):
    output = tmp_path / "references.json"
    words = [
        "--settings",
        "bandit_5x10",
        "tabular_mdp_10",
        "--test-tasks",
        "200",
        "--copies",
        "5",
        "--mdp-copies",
        "1",
    ]
    subprocess.run(
        [sys.executable, SCRIPTS / "bandit_references.py", output, *words],
        env=environment,
        check=True,
        timeout=PATIENCE_S,
    )

    found = json.loads(output.read_text())
    bandit, mdp = (
        {name: row["mean"] for name, row in found[setting]["players"].items()}
        for setting in ("bandit_5x10", "tabular_mdp_10")
    )
    assert bandit["random"] < bandit["thompson"] < bandit["gittins"] < bandit["best_arm"]
    assert found["bandit_5x10"]["bayes_optimum"] == 6.66
    assert mdp["random"] + 20 < min(mdp["psrl"], mdp["opsrl"])
    assert max(mdp["psrl"], mdp["opsrl"]) < mdp["greedy"] < mdp["optimum"]


@pytest.mark.slow
def test_whole_trials_are_set_beside_the_players_of_the_same_tasks(
    tmp_path, environment, meta_rl, small_config
):
    envs = {"name": "bandits", "horizon": 4, "test_tasks": 20, "validation_tasks": 5}
    config = small_config(
        "rl2_ppo",
        agent={"episodes_per_trial": 1},
        envs=envs,
        # The mean over evaluation episodes is what a trial earns, not their sum.
        evaluation={"adaptation_steps": 0, "evaluation_episodes": 2},
    )
    meta_rl("train", config, "--name", "small-seed0", "--runs", tmp_path).succeeds()
    references, output = tmp_path / "references.json", tmp_path / "trials.json"
    for words in (
        [
            *("bandit_references.py", references, "--settings", "bandit_5x4", "tabular_mdp_10"),
            *("--test-tasks", "20", "--mdp-copies", "1"),
        ],
        ["trial_returns.py", output, tmp_path / "small-seed0", "--references", references],
    ):
        subprocess.run(
            [sys.executable, SCRIPTS / words[0], *words[1:]],
            env=environment,
            check=True,
            timeout=PATIENCE_S,
        )

    players = json.loads(references.read_text())["tabular_mdp_10"]["players"]
    assert players["random"]["mean"] + 20 < players["psrl"]["mean"] < players["optimum"]["mean"]
    (trial,) = json.loads(output.read_text())["runs"]
    assert trial["setting"] == "bandit_5x4" and trial["seed"] == 0 and "cores" in trial["machine"]
    assert trial["trial_return"]["mean"] == pytest.approx(
        trial["stages"][0]["episode_return"]["mean"], abs=1e-3
    )
    assert 0.3 < trial["share_of_reference"]["gittins"] < 1.1

    def refused():
        outcome = subprocess.run(
            [sys.executable, SCRIPTS / words[0], *words[1:]],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert outcome.returncode == 1
        return outcome.stderr

    references.write_text(references.read_text().replace('"task_seed": 0', '"task_seed": 7'))
    assert "other tasks than the references of bandit_5x4 (task_seed: 0 / 7)" in refused()
    # Two trials, one after the other, are not one.
    meta_rl("evaluate", tmp_path / "small-seed0", "--adaptation-steps", 1).succeeds()
    assert "must be the 1 of a trial" in refused()


@pytest.mark.thorough
def test_the_planner_of_the_two_step_task_plans_more_than_the_learner_of_values(
    tmp_path, environment, meta_rl, small_config
):
    envs = {"name": "two_step", "horizon": 100, "test_tasks": 40, "validation_tasks": 5}
    config = small_config(
        "rl2_ppo", agent={"episodes_per_trial": 1}, envs=envs, evaluation={"adaptation_steps": 0}
    )
    meta_rl("train", config, "--name", "small-seed0", "--runs", tmp_path).succeeds()
    output = tmp_path / "index.json"
    words = [sys.executable, SCRIPTS / "two_step_index.py", output, tmp_path / "small-seed0"]
    subprocess.run(words, env=environment, check=True, timeout=PATIENCE_S)

    found = json.loads(output.read_text())
    planner, learner = found["planner"], found["value_learner"]
    assert planner["model_based_index"] > 0.5 > learner["model_based_index"] + 0.15
    assert learner["model_free_index"] > 0.2 > planner["model_free_index"] + 0.1
    assert planner["return"]["mean"] > learner["return"]["mean"] > 25
    assert (
        abs(found[str(tmp_path / "small-seed0")]["model_based_index"]) < 0.3
    )  # it has learned nothing yet
