import math

import pytest

from envs.gymnasium.variation import read
from meta_rl.core.errors import UserError

SPLITS = ("train", "validation", "test")
SHARES = [number / 2000 for number in range(2000)]


def one(entry, extrapolate=False):
    (variation,) = read([entry], extrapolate)
    return variation


def values(variation, split):
    return {variation.value(variation.draw(split, share)) for share in SHARES}


ENTRIES = [
    {"attribute": "m", "uniform": [1, 3]},
    {"attribute": "m", "log_uniform": [0.1, 10]},
    {"attribute": ["m", "l"], "scale": [0.5, 2.0]},
    {"attribute": "m", "log_scale": [0.5, 2.0]},
    {"keyword": "n", "integers": [5, 40]},
    {"keyword": "n", "values": ["a", "b", "c"]},
    {"keyword": "n", "values": list(range(50))},
    {"seed": [0, 10**9]},
    {"attribute": "g", "uniform": [1, 2], "test": [2, 3]},
    {"attribute": "g", "uniform": [1, 2], "test": [2, 3], "validation": [-1, 0]},
    {"keyword": "n", "values": ["a", "b"], "test": ["c"], "validation": ["d", "e"]},
    {"keyword": "n", "integers": [1, 3], "test": [4, 4]},
]


@pytest.mark.parametrize("extrapolate", [False, True])
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_no_split_sees_a_value_of_another(entry, extrapolate):
    variation = one(entry, extrapolate)
    seen = {split: values(variation, split) for split in SPLITS}
    assert all(seen.values())
    for first, second in (("train", "test"), ("train", "validation"), ("test", "validation")):
        assert not seen[first] & seen[second]
    if variation.discrete and variation.count("train") < 1000:
        for split in SPLITS:  # every value is drawn, and no other
            assert len(seen[split]) == variation.count(split)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 10, 19, 20, 21, 100, 1000, 1001, 5000])
@pytest.mark.parametrize("extrapolate", [False, True])
def test_listed_values_are_shared_out_without_a_rest(count, extrapolate):
    variation = one({"keyword": "n", "integers": [0, count - 1]}, extrapolate)
    counts = [variation.count(split) for split in SPLITS]
    assert sum(counts) == count and min(counts) >= 1
    assert counts[0] >= counts[2] >= 1
    if count >= 20:
        assert 0.6 <= counts[0] / count <= 0.75


def test_a_range_of_three_quarters_and_inner_parts():
    # Twenty parts of 0.1: the test split has the fourth, eleventh and seventeenth.
    variation = one({"attribute": "m", "uniform": [1.0, 3.0]})
    drawn = values(variation, "test")
    parts = {math.floor((value - 1.0) / 0.1 + 1e-9) for value in drawn}
    assert parts == {3, 10, 16}
    assert min(values(variation, "train")) < 1.1 and max(values(variation, "train")) > 2.9


def test_extrapolation_holds_out_a_tenth_at_each_end():
    variation = one({"attribute": "m", "uniform": [0.0, 1.0]}, extrapolate=True)
    test, train = values(variation, "test"), values(variation, "train")
    assert all(value < 0.1 or value >= 0.9 for value in test)
    assert min(test) == 0.0 and max(test) > 0.99
    assert all(0.1 <= value <= 0.9 for value in train)


def test_a_logarithmic_range_has_as_much_below_its_middle_as_above():
    variation, _ = read(
        [
            {"attribute": "m", "log_uniform": [0.01, 100], "shared": True},
            {"attribute": "g", "uniform": [0, 1]},
        ],
        False,
    )
    drawn = [variation.draw("train", share) for share in SHARES]
    assert sum(value < 1.0 for value in drawn) == len(drawn) / 2
    assert drawn[0] == pytest.approx(0.01) and drawn[-1] == pytest.approx(100, rel=0.01)


def test_what_is_shared_is_drawn_whole_by_every_split():
    shared, _ = read(
        [
            {"keyword": "map", "values": ["4x4", "8x8"], "shared": True},
            {"attribute": "g", "uniform": [0, 1]},
        ],
        False,
    )
    assert all(values(shared, split) == {"4x4", "8x8"} for split in SPLITS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("gravity", r"envs.vary must be a list such as"),
        ([], r"envs.vary is empty, so all tasks are the same"),
        (["gravity"], r"envs.vary\[0\] must hold `key: value` lines"),
        ([{"uniform": [0, 1]}], r"must say what it changes by one of attribute, keyword, .* none"),
        ([{"attribute": "m"}], r"must say the values by one of uniform, .*; it has none"),
        (
            [{"attribute": "m", "keyword": "m", "uniform": [0, 1]}],
            r"it has attribute and keyword",
        ),
        (
            [{"attribute": "m", "unifrom": [0, 1]}],
            r"unknown key 'unifrom' .*did you mean 'uniform'",
        ),
        ([{"attribute": "m", "uniform": [2, 1]}], r"is an empty range: 2 is not below 1"),
        ([{"attribute": "m", "uniform": [1, 1]}], r"is an empty range"),
        ([{"attribute": "m", "uniform": [1]}], r"must be two numbers, \[low, high\], got \[1\]"),
        ([{"attribute": "m", "uniform": [0, float("inf")]}], r"must be two numbers"),
        ([{"attribute": "m", "integers": [0, 1.5]}], r"must be two whole numbers"),
        (
            [{"attribute": "m", "log_scale": [0, 2]}],
            r"must be above 0 to be drawn by its logarithm",
        ),
        ([{"attribute": "m", "values": []}], r"is empty; list at least one value"),
        ([{"attribute": "m", "values": [1, 2, 3, 1.0]}], r"lists 1.0 twice"),
        ([{"attribute": "m", "values": [1, 2]}], r"none is left for validation; list at least 3"),
        (
            [{"attribute": "m", "uniform": [0, 2], "test": [1, 3]}],
            r"splits of envs.vary\[0\] overlap: test has \[1.0, 3.0\], but the others have",
        ),
        (
            [{"keyword": "m", "values": ["a", "b"], "test": ["c"], "validation": ["c"]}],
            r"splits of envs.vary\[0\] overlap",
        ),
        (
            [{"attribute": "m", "integers": [0, 5], "test": [5, 6]}],
            r"splits of envs.vary\[0\] overlap",
        ),
        (
            [{"attribute": "m", "uniform": [0, 2], "shared": True}],
            r"all entries of envs.vary are shared, so splits overlap",
        ),
        (
            [{"attribute": "m", "uniform": [0, 2], "shared": True, "test": [3, 4]}],
            r"is shared by all splits, so test cannot have its own",
        ),
        ([{"keyword": "m", "scale": [1, 2]}], r"scales a keyword"),
        ([{"attribute": "m", "of": "torso", "scale": [1, 2]}], r"must not have of"),
        ([{"seed": [0, 9], "uniform": [0, 1]}], r"must not have uniform"),
        ([{"attribute": 3, "uniform": [0, 1]}], r"must be a name or a list of names, got 3"),
    ],
)
def test_what_cannot_be_varied_is_told_in_a_sentence(entries, message):
    with pytest.raises(UserError, match=message):
        read(entries, False)


def test_a_value_that_is_not_listed_is_refused():
    variation = one({"keyword": "n", "values": ["a", "b", "c"]})
    with pytest.raises(
        UserError, match="has 3 values, counted from 0, but a task has the number 3"
    ):
        variation.value(3.0)
    for entry in (
        {"keyword": "n", "values": ["a", "b", "c"]},
        {"keyword": "n", "integers": [0, 9]},
    ):
        with pytest.raises(UserError, match=r"whole numbers .* has the number 1.9"):
            one(entry).value(1.9)
