import json
import textwrap

import numpy as np
import pytest

from meta_rl.deployment.policy_file import load
from meta_rl.deployment.rounds import Round, improves
from meta_rl.evaluation.alarm import FALSE_ALARM, alarm_limit

MOVING = '''
    """A Gymnasium environment as its owner would write it: the goal jumps after some episodes."""

    import gymnasium
    import numpy as np
    from gymnasium.spaces import Box
    from helpers import FIRST, SECOND

    class Moving(gymnasium.Env):
        observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        action_space = Box(-1.0, 1.0, (2,), np.float32)
        episodes = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.episodes += 1
            self.goal = np.array(FIRST if self.episodes <= 28 else SECOND)
            self.position = np.zeros(2)
            return self.position, {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.position = self.position + 0.1 * action
            distance = float(np.linalg.norm(self.position - self.goal))
            return self.position, -distance, False, False, {}

    class Wide(Moving):
        observation_space = Box(-1.0, 1.0, (3,))

    class Strong(Moving):
        action_space = Box(-2.0, 2.0, (2,))

    class Said(Moving):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {"is_success": rest[1] > -0.1}

    class Breaks(Moving):
        def reset(self, *, seed=None, options=None):
            assert self.episodes < 9, "the robot fell over"
            return super().reset(seed=seed)

    def number():
        return 3

    gymnasium.register("Moving-v0", Moving)
'''


@pytest.fixture(scope="module")
def trained(small_config, tmp_path_factory):
    """A run of MAML that has learned to adapt to goals of 2-D navigation."""
    from meta_rl.commands.cli import main

    config = small_config(
        "maml_trpo",
        agent={"hidden_sizes": [16], "inner_lr": 0.3, "later_inner_lr": 0.1},
        envs={"horizon": 20},
        meta_iterations=25,
        meta_batch_size=15,
        copies=10,
        checkpoint_every=25,
    )
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(config), "--runs", str(folder)]) == 0
    return folder / "small"


@pytest.fixture
def adapt(trained, meta_rl, tmp_path):
    """Adapt that run by the command line; return the log's rows and the outcome."""

    def run(*words):
        output = tmp_path / "policy.pt"
        outcome = meta_rl("adapt", trained, "--output", output, *words)
        log = output.with_suffix(".jsonl")
        rows = log.read_text().splitlines() if log.exists() else []
        return [json.loads(row) for row in rows], outcome

    return run


@pytest.fixture
def worlds(tmp_path):
    """A user's file of environments, with a module beside it that it imports."""
    (tmp_path / "helpers.py").write_text("FIRST, SECOND = [0.4, 0.3], [-0.4, -0.3]\n")
    path = tmp_path / "worlds.py"
    path.write_text(textwrap.dedent(MOVING))
    return path


def rounds(rows, doing):
    return [row for row in rows if row.get("doing") == doing]


def events(rows):
    return [row["event"] for row in rows if "event" in row]


def test_a_policy_adapts_to_a_held_out_goal_until_more_brings_nothing(adapt):
    rows, outcome = adapt("--goal", 2, "--until-stable")
    outcome.succeeds()

    assert "note: adapting for up to 20 rounds; the agent was trained for 1" in outcome.out
    assert events(rows) == ["stable"]
    tried, (kept,) = rounds(rows, "adapt"), rounds(rows, "execute")
    best = max(row["return"] for row in tried)
    assert kept["learned_from"] in [row["learned_from"] for row in tried]
    assert tried[0]["return"] < 0.6 * best  # both are negative
    assert kept["return"] > 0.7 * tried[0]["return"]
    assert [row["learned_from"] for row in tried] == [10 * k for k in range(len(tried))]
    printed = [line for line in outcome.out.splitlines() if line.startswith("point:2  round ")]
    assert len(printed) == len(tried) + 1


def test_a_policy_that_adapts_once_until_stable_is_one_that_was_played(adapt):
    rows, outcome = adapt("--goal", 2, "--until-stable", "--rounds", 1)
    outcome.succeeds()
    tried, (kept,) = rounds(rows, "adapt"), rounds(rows, "execute")
    assert [row["learned_from"] for row in tried] == [0, 10]
    assert events(rows) == ["not stable"] and kept["learned_from"] == 10


def test_a_goal_that_jumps_is_noticed_and_adapted_to(adapt, worlds, tmp_path):
    words = ("--rounds", 2, "--episodes", 4, "--watch", 7)
    rows, outcome = adapt("--env", f"{worlds}:Moving", *words)
    outcome.succeeds()

    # After 8 episodes to adapt and 5 rounds of 4 that are executed, the goal jumps.
    assert events(rows) == ["dropped", "starts again"]
    (dropped,) = [at for at, row in enumerate(rows) if row.get("event") == "dropped"]
    steady = rounds(rows[:dropped], "execute")
    changed = steady.pop()
    assert len(steady) == 5 and changed["return"] < min(row["return"] for row in steady) - 2
    recovered = [row["return"] for row in rounds(rows[dropped:], "execute")]
    assert len(recovered) == 2 and min(recovered) > changed["return"] / 2  # both are negative
    assert "from the meta-parameters" in rows[dropped + 3]["detail"]
    assert all(row["success"] is None for row in rows if "doing" in row)

    policy, position = load(tmp_path / "policy.pt"), np.zeros(2)
    for _ in range(20):
        position = position + 0.1 * policy.predict(position)[0]
    assert np.linalg.norm(position - [-0.4, -0.3]) < 0.4 < np.linalg.norm(position - [0.4, 0.3])


def test_what_was_adapted_is_kept_when_the_environment_fails_later(adapt, worlds, tmp_path):
    words = ("--rounds", 2, "--episodes", 3, "--watch", 4)
    rows, outcome = adapt("--env", f"{worlds}:Breaks", *words)
    outcome.fails_with("the robot fell over")
    assert len(rows) == 3  # six episodes to adapt, and three of the first round that is executed
    assert load(tmp_path / "policy.pt").metadata["adaptation_episodes"] == 6
    assert (tmp_path / "policy.pt2").is_file()


@pytest.mark.parametrize("name", ["worlds:Said", "worlds:Moving-v0", "{file}:Said"])
def test_an_environment_is_named_as_an_attribute_of_a_module_or_a_file_or_as_an_id(
    name, adapt, worlds, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(worlds.parent))
    monkeypatch.syspath_prepend(str(worlds.parent))
    rows, outcome = adapt("--env", name.format(file=worlds), "--episodes", 2)
    outcome.succeeds()
    (row,) = rounds(rows, "adapt")
    assert (row["success"] is None) == (name == "worlds:Moving-v0")


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        ("{file}:Wide", ["the policy observes (2,)", "worlds.py:Wide observes (3,)"]),
        ("{file}:Strong", ["acts in Box(-1.0, 1.0, (2,)", "takes actions in Box(-2.0, 2.0, (2,)"]),
        ("{file}:Movign", ["no 'Movign' to call in worlds"]),
        ("{file}:number", ["must make a gymnasium.Env, but it made int"]),
        ("none.py:Moving", ["no file none.py for --env"]),
        ("nowhere:Moving", ["cannot import 'nowhere'"]),
        ("Pendulam-v1", ["no environment --env Pendulam-v1", "Pendulum"]),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(name, phrases, adapt, worlds):
    rows, outcome = adapt("--env", name.format(file=worlds))
    outcome.fails_with(*phrases)
    assert not rows


def test_a_goal_must_be_an_index_or_as_many_numbers_as_the_task_has(adapt):
    for text, phrase in (
        ("0.1,0.2,0.3", "a goal of point is 2 numbers, e.g. "),
        ("0.1;0.2", "must be an index or numbers like 0.1,0.8, got '0.1;0.2'"),
        ("inf,0", "must be finite"),
        ("9", "it has 0 to 2; a goal of your own is numbers"),
        ("-1", "no goal -1 of point"),
    ):
        adapt(f"--goal={text}")[1].fails_with(phrase)


def test_the_numbers_of_a_known_goal_are_that_goal(adapt, tmp_path):
    from envs.point_navigation import Config, PointNavigation

    params = PointNavigation(Config(test_goals=3)).tasks("test").params[1].tolist()
    by_index, _ = adapt("--goal", 1)
    by_numbers, outcome = adapt(
        "--goal=" + ",".join(map(repr, params)), "--video", tmp_path / "film.png"
    )
    assert f"film: {tmp_path / 'film.png'}" in outcome.out  # filming changes nothing
    assert (tmp_path / "film.png").stat().st_size > 1000
    assert by_numbers == by_index
    assert outcome.out.startswith("point:" + ",".join(map(repr, params)) + "  round 1,")


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("--env", "CartPole-v1", "--goal", 1), "leave out --task and --goal"),
        (("--watch", -1), "--watch must be at least 0, got -1"),
        (("--output", "policy.onnx"), "--output must end in .pt, got policy.onnx"),
    ],
)
def test_flags_that_make_no_sense_are_refused(words, phrase, trained, meta_rl):
    meta_rl("adapt", trained, *words).fails_with(phrase)


def make_round(returns, success=None):
    return Round(1, "adapt", 0, tuple(returns), success, None, 0)


def test_a_round_improves_by_success_and_else_by_more_than_its_standard_error():
    best = make_round([0.0, 0.0])
    assert not improves(make_round([0.0, 2.0]), best)  # 1 ± 1
    assert improves(make_round([0.2, 2.0]), best)  # 1.1 ± 0.9
    assert improves(make_round([0.1]), best)  # one episode tells no error
    assert improves(make_round([-9.0], success=0.5), make_round([0.0], success=0.4))
    assert not improves(make_round([9.0], success=0.4), make_round([0.0], success=0.5))
    assert improves(make_round([9.0], success=0.0), make_round([0.0]))  # nothing said: none


def test_the_alarm_limit_is_the_lower_prediction_limit():
    assert alarm_limit([], 4) == alarm_limit([1.0], 4) == -np.inf
    # Mean 1, s = √2, and t(0.99865; 1) = tan(0.49865 π) = cot(0.00135 π): √(1/2 + 1/2) = 1.
    expected = 1 - np.sqrt(2) / np.tan(FALSE_ALARM * np.pi)
    assert alarm_limit([0.0, 2.0], 2) == pytest.approx(expected)
    assert 5.0 >= alarm_limit([5.0, 5.0, 5.0], 1) > 4.99  # equal returns, up to rounding


def test_false_alarms_are_as_rare_as_promised_and_large_drops_are_seen():
    generator = np.random.default_rng(0)
    alarms = drops = 0
    for _ in range(2000):
        limit = alarm_limit(generator.normal(size=8).tolist(), 4)
        alarms += generator.normal(size=4).mean() < limit
        drops += generator.normal(loc=-5.0, size=4).mean() < limit
    assert alarms <= 10  # 2.7 expected: P(more than 10) is below 1e-3
    assert drops > 1900
