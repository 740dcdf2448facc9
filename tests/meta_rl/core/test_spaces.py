import numpy as np
import pytest
from gymnasium import spaces

from meta_rl.core.errors import UserError
from meta_rl.core.spaces import (
    action_of,
    bounds,
    check_action_space,
    check_observation_space,
    choices,
    flat_observation,
    flat_size,
    from_plain,
    nearest,
    same_layout,
    same_values,
    to_plain,
)
from meta_rl.core.types import RETURN, SUCCESS, EnvSpec

SPACES = [
    spaces.Box(-1.0, 2.0, (3,), np.float32),
    spaces.Box(0, 255, (2, 2), np.uint8),
    spaces.Box(-np.inf, np.inf, (), np.float64),
    spaces.Discrete(4, start=-1),
    spaces.Discrete(3, dtype=np.int32),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([2, 3], dtype=np.uint8),
    spaces.MultiBinary(3),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2,), np.float32)}),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (1,), np.float32)]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_observation_is_a_vector_of_the_space_s_size(space):
    check_observation_space(space, "it")
    space.seed(0)
    for _ in range(5):
        assert np.shape(flat_observation(space, space.sample())) == (flat_size(space),)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives_a_file(space):
    read = from_plain(to_plain(space))
    assert read == space and read.dtype == space.dtype


def test_a_dict_is_flattened_in_the_same_order_after_a_file():
    space = spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Box(-1, 1, (1,)))])
    value = {"b": 1, "a": np.full(1, 0.5, np.float32)}
    for same in (space, from_plain(to_plain(space))):
        assert flat_observation(same, value).tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("space", [spaces.Sequence(spaces.Discrete(2)), spaces.Text(5)], ids=str)
def test_a_sequence_has_no_size_and_a_text_no_quantities_so_they_are_refused(space):
    for observed in (space, spaces.Dict({"a": spaces.Tuple([space])})):
        with pytest.raises(UserError, match=r"it observes .*, which cannot be flattened"):
            check_observation_space(observed, "it")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=-1),
        spaces.Discrete(4, dtype=np.int32),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([2, 3], dtype=np.int32),
    ],
)
def test_one_hots_mean_the_action_that_gymnasium_flattens_to_them(space):
    space.seed(0)
    for _ in range(20):
        action = space.sample()
        flat = spaces.flatten(space, action).astype(np.float32)
        assert np.array_equal(action_of(space, flat), action)
        assert space.contains(action_of(space, flat))


def test_the_largest_number_decides_where_nothing_is_one_hot():
    assert action_of(spaces.Discrete(3), np.array([0.2, 0.5, 0.4], np.float32)) == 1


def test_a_box_takes_its_numbers_in_its_shape_and_type():
    space = spaces.Box(-9, 9, (2, 2), np.float64)
    action = action_of(space, np.arange(4, dtype=np.float32))
    assert action.dtype == np.float64 and action.tolist() == [[0, 1], [2, 3]]


def test_whole_numbers_are_rounded_to():
    space = spaces.Box(-2, 2, (4,), np.int64)
    rounded = action_of(space, np.array([1.9, -1.9, 0.9, -0.4], np.float32))
    assert rounded.tolist() == [2, -2, 1, 0] and space.contains(rounded)


def test_the_nearest_value_of_a_box_is_in_it_whatever_its_type():
    random = np.random.default_rng(0)
    whole = np.iinfo(np.int64)
    boxes = [spaces.Box(whole.min, whole.max, (1,), np.int64)]
    for dtype in (np.float64, np.float32, np.float16, np.int8, np.int64):
        ends = np.sort(random.uniform(-100, 100, (200, 2)), axis=1).astype(dtype)
        boxes += [spaces.Box(low, high, (1,), dtype) for low, high in ends]
    for box in boxes:
        low, high = box.low.astype(float), box.high.astype(float)
        for place in (0.0, 0.3, 1.0):
            assert box.contains(nearest(box, low + place * (high - low))), box
        assert nearest(box, low) == box.low and nearest(box, high) == box.high


def test_only_actions_that_a_policy_can_take_are_accepted():
    for space in (spaces.Discrete(2), spaces.MultiDiscrete([2, 2]), spaces.Box(-1, 1, (1,))):
        check_action_space(space, "it")
    with pytest.raises(UserError, match="only Box, Discrete and MultiDiscrete"):
        check_action_space(spaces.Dict({"a": spaces.Discrete(2)}), "it")


def test_layouts_are_the_same_if_kind_sizes_and_bounds_are():
    box = spaces.Box(-1, 1, (2,), np.float32)
    assert same_layout(box, spaces.Box(-1, 1, (1, 2), np.float64))
    assert not same_layout(box, spaces.Box(-1, 2, (2,), np.float32))
    assert not same_layout(box, spaces.Discrete(2))
    assert same_layout(spaces.Discrete(3), spaces.Discrete(3, start=5))
    assert not same_layout(spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]))


def test_values_are_the_same_if_rows_mean_the_same():
    three, later = spaces.Discrete(3), spaces.Discrete(3, start=5)
    box = spaces.Box(-1, 1, (3,), np.float32)
    assert same_values(three, spaces.Discrete(3)) and not same_values(three, later)
    assert not same_values(three, spaces.MultiDiscrete([3]))  # a number and an array
    assert same_values(box, three) and not same_values(box, spaces.Discrete(4))
    assert same_values(spaces.Tuple([box, three]), spaces.Tuple([spaces.Box(0, 9, (1, 3)), three]))
    assert not same_values(spaces.Tuple([box, three]), spaces.Tuple([three, box]))
    named, other = (spaces.Dict({"a": box, name: three}) for name in ("b", "c"))
    assert same_values(named, spaces.Dict({"a": box, "b": three}))
    assert not same_values(named, other)


def test_a_spec_counts_what_its_spaces_hold():
    spec = EnvSpec(spaces.Discrete(5), spaces.MultiDiscrete([2, 3]), horizon=4)
    assert (spec.observation_size, spec.action_size) == (5, 5)
    assert choices(spec.action_space) == (2, 3) and spec.action_bounds == ((0.0,) * 5, (1.0,) * 5)
    assert spec.scores == (RETURN,)


def test_a_spec_of_vectors_is_judged_by_success_where_it_is_reported():
    spec = EnvSpec.box(2, [-1.0], [0.5], 4, metrics=("success",))
    assert spec.scores == (SUCCESS, RETURN) and bounds(spec.action_space) == ((-1.0,), (0.5,))
