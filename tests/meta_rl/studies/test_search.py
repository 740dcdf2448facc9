import math

import pytest

from meta_rl.core.errors import UserError
from meta_rl.experiment.config import load_experiment
from meta_rl.studies.search import Tried, make_search
from meta_rl.studies.seeds import read_seeds
from meta_rl.studies.settings import read_varied, told, value_of, with_setting


@pytest.fixture(scope="module")
def base(small_config):
    return load_experiment(str(small_config("maml_ppo")))


def test_a_range_of_a_number_that_may_be_none_is_not_of_whole_numbers(small_config):
    of_promp = load_experiment(str(small_config("promp", agent={"target_kl": None})))
    (varied,) = read_varied(["agent.target_kl=linear:1:3"], of_promp)
    assert not varied.whole


def test_values_have_the_types_of_their_settings(base):
    varied = read_varied(
        [
            "agent.inner-lr=1,1e-2",
            "agent.hidden_sizes=[8],[16,16]",
            "agent.first_order=true,false",
            "agent.activation=tanh,relu",
            "meta_batch_size=2,3",
        ],
        base,
    )
    setting = {each.name: each.values[-1] for each in varied}
    made = with_setting(base, setting)
    assert (made.agent.inner_lr, made.agent.hidden_sizes, made.agent.first_order) == (
        *(0.01, (16, 16), False),
    )
    assert (made.agent.activation, made.meta_batch_size) == ("relu", 3)
    assert told({"agent.inner_lr": 0.012345678901234, "agent.hidden_sizes": [8, 8]}) == (
        "agent.inner_lr 0.01235, agent.hidden_sizes [8, 8]"
    )
    assert told({"agent.gamma": 0.999999}) == "agent.gamma 0.999999"  # not 1


def test_a_section_that_is_varied_whole_is_held_as_configs_have_it(small_config):
    base = load_experiment(str(small_config("maml_trpo")))
    texts = ["agent.trust_region={max_kl: 0.01},{max_kl: 0.05}"]
    varied = read_varied(texts, base)
    for value, max_kl in zip(varied[0].values, (0.01, 0.05), strict=True):
        made = with_setting(base, {"agent.trust_region": value})
        assert made.agent.trust_region.max_kl == max_kl
        assert value == value_of(made, "agent.trust_region")
    search = make_search("tpe", varied, 3, 0)
    tried = Tried({"agent.trust_region": varied[0].values[1]}, 1.0, runs=False)
    assert search.propose(1, (tried,))["agent.trust_region"] in varied[0].values
    with pytest.raises(UserError, match=r"trust_region.max_kl is a part of agent.trust_region"):
        read_varied([*texts, "agent.trust_region.max_kl=0.1,0.2"], base)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "say what to vary"),
        (["agent.inner_lr=1,1e0"], "a value is given twice, got 1, "),
        (["agent.inner_lr"], "needs SETTING=VALUE,VALUE, got 'agent.inner_lr'"),
        (["agent.inner_lr="], "there are no values; give some, such as agent.inner_lr=1,2"),
        (["agent.inner_lr=1,,2"], "cannot read --vary agent.inner_lr=1,,2, line 1"),
        (["agent.inner_lr=0.1,0.1"], "a value is given twice, got 0.1, 0.1"),
        (["agent.inner_lr=0.1", "agent.inner_lr=1"], "names agent.inner_lr twice"),
        (["agent.inner_rl=0.1"], "unknown key 'agent.inner_rl'; did you mean 'inner_lr'"),
        (["agent.inner_lr.x=0.1"], "inner_lr is a single value, not a section"),
        (["agent.inner_lr=0.1,high"], "agent.inner_lr must be a float, got 'high'"),
        (["agent.inner_lr=0.1,-1"], "agent.inner_lr must be above 0, got -1.0"),
        (["agent.epochs=1.5"], "agent.epochs must be an int, got 1.5"),
        (["agent.epochs=linear:0:3"], "agent.epochs must be at least 1, got 0"),
        (["agent.epochs=linear:1:2.5"], "agent.epochs must be an int, got 2.5"),
        (["agent.inner_lr=log:0:1"], "the range of a logarithm begins above 0, got 0"),
        (["agent.inner_lr=log:1:0.1"], "a range begins below its end, got 1 to 0.1"),
        (["agent.inner_lr=log:low:1"], "a range lies between two numbers, got"),
        (["seed=1,2"], "seed: it cannot be varied, only what an agent learns by"),
        (["agent.name=promp"], "agent.name: it cannot be varied"),
        (["evaluation.every=1"], "evaluation.every: it cannot be varied"),
        (["envs.horizon=5,6"], "envs.horizon: it changes what is measured"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_starts(base, texts, message):
    with pytest.raises(UserError) as caught:
        read_varied(texts, base)
    assert message in str(caught.value)


def test_a_grid_is_every_combination_the_last_setting_first(base):
    grid = make_search("grid", read_varied(["agent.epochs=1,2", "copies=3,4"], base), None, 0)
    assert [grid.propose(number, ()) for number in range(grid.count)] == [
        {"agent.epochs": epochs, "copies": copies} for epochs in (1, 2) for copies in (3, 4)
    ]


def test_random_draws_are_even_within_their_range_and_depend_on_the_number_alone(base):
    texts = ["agent.inner_lr=log:1e-4:1", "agent.epochs=linear:1:4", "agent.activation=tanh,relu"]
    varied = read_varied(texts, base)
    search = make_search("random", varied, 400, 5)
    drawn = [search.propose(number, ()) for number in range(400)]
    assert make_search("random", varied, 9, 5).propose(7, ()) == drawn[7]
    assert make_search("random", varied, 9, 6).propose(7, ()) != drawn[7]

    magnitudes = [math.log10(each["agent.inner_lr"]) for each in drawn]
    assert min(magnitudes) >= -4 and max(magnitudes) <= 0
    # Uniform in [-4, 0]: mean -2, and 400 draws spread it by 4 / sqrt(12 * 400) = 0.06.
    assert sum(magnitudes) / 400 == pytest.approx(-2, abs=0.25)
    counts = [sum(each["agent.epochs"] == epochs for each in drawn) for epochs in range(1, 5)]
    assert sum(counts) == 400 and min(counts) > 60
    assert {each["agent.activation"] for each in drawn} == {"tanh", "relu"}


@pytest.mark.parametrize(
    ("name", "vary", "trials", "message"),
    [
        ("grid", "agent.inner_lr=log:1e-3:1", None, "a grid needs values, not a range"),
        ("grid", "agent.inner_lr=1", 3, "--trials is for --search random and tpe"),
        ("random", "agent.inner_lr=1", None, "--search random needs --trials N"),
    ],
)
def test_a_search_that_does_not_fit_is_refused(base, name, vary, trials, message):
    with pytest.raises(UserError, match=message):
        make_search(name, read_varied([vary], base), trials, 0)


def test_tpe_learns_from_earlier_trials_and_repeats_itself(base):
    pytest.importorskip("optuna")
    texts = ["agent.inner_lr=log:1e-4:1", "agent.epochs=linear:1:10", "agent.hidden_sizes=[8],[9]"]
    search = make_search("tpe", read_varied(texts, base), 30, 0)

    def score(setting):  # best at 0.01 with 7 epochs
        return -((math.log10(setting["agent.inner_lr"]) + 2) ** 2) - abs(
            setting["agent.epochs"] - 7
        )

    tried = []
    for number in range(30):
        setting = search.propose(number, tried)
        with_setting(base, setting)
        tried.append(Tried(setting, score(setting)))
    values = [each.value for each in tried]
    assert sum(values[20:]) / 10 > sum(values[:10]) / 10
    running = [*tried[:28], Tried(tried[28].setting, runs=True)]
    assert search.propose(29, running) == search.propose(29, running)
    assert search.propose(29, tried[:29]) == tried[29].setting


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("2:5", (2, 3, 4)), ("0,3,7", (0, 3, 7)), ("4:5", (4,))]
)
def test_seeds_are_a_number_a_range_or_a_list(text, seeds):
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "1-3", "-1", "1:", "0", "3:3", "1,1", "1, 2", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(UserError, match="--seeds"):
        read_seeds(text)
