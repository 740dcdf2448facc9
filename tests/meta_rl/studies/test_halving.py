import pytest

from meta_rl.studies.halving import goes_on, rungs


@pytest.mark.parametrize(
    ("every", "end", "reduction", "expected"),
    [(1, 9, 3, [1, 3]), (1, 10, 3, [1, 3, 9]), (5, 100, 4, [5, 20, 80]), (8, 8, 2, [])],
)
def test_rungs_are_powers_below_the_end(every, end, reduction, expected):
    assert rungs(every, end, reduction) == expected


def test_one_in_so_many_goes_on():
    """Of values in any order, the best third so far: at least one, the best of all among them."""
    values = [(0.3,), (0.1,), (0.5,), (0.2,), (0.4,), (0.45,), (0.6,)]
    went_on = [goes_on(value, values[:n], 3) for n, value in enumerate(values)]
    # Of 1 to 5 values the best goes on, of 6 and 7 the best two.
    assert went_on == [True, False, True, False, False, True, True]


def test_equals_go_on_together():
    assert goes_on((0.5, -2.0), [(0.5, -2.0), (0.1, 0.0)], 3)
    assert not goes_on((0.5, -2.1), [(0.5, -2.0), (0.1, 0.0)], 3)
