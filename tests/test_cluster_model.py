import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "_cluster_costs.py"
_spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
costs = sys.modules[SCRIPT.stem] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(costs)


@pytest.fixture(autouse=True)
def calls_are_free(monkeypatch):
    monkeypatch.setattr(costs, "CALL_S", 0.0)


@pytest.fixture
def free():
    """Eight tasks that take a second each, moved and learned from in no time."""
    none = costs.Line(0.0, 0.0)
    return costs.Costs(8, 4, 2, 100, costs.Line(0.0, 1.0), none, none, 0, 0.0, 0.0, 1.0)


@pytest.fixture
def here():
    return costs.Machines("here", cores=64, machines=1, link_bytes_a_s=1.0, learning_speed=1.0)


def test_what_shares_out_evenly_is_as_many_times_faster(free, here):
    one, four = (costs.iteration(free, here, workers, 8) for workers in (1, 4))
    assert (one.whole_s, four.whole_s) == (8.0, 2.0)
    assert costs.efficiency(one, four) == pytest.approx(1.0)
    assert four.env_steps == 800


def test_the_slowest_worker_counts_and_those_without_tasks_do_nothing(free, here):
    assert costs.iteration(free, here, 3, 8).whole_s == 3.0  # 2, 3 and 3 tasks
    assert costs.iteration(free, here, 64, 8).whole_s == 1.0
    one, many = (costs.iteration(free, here, workers, 8) for workers in (1, 64))
    assert costs.efficiency(one, many) == pytest.approx(1 / 8)


def test_policies_act_for_the_rows_that_stand_in_for_others(free, here):
    acting = replace(free, playing=costs.Line(0.0, 0.0), acting=costs.Line(0.0, 1.0), copies=1)
    assert costs.iteration(acting, here, 8, 8).whole_s == 4.0  # rows are rounded in fours


def test_bytes_take_their_time_over_the_link_and_through_memory(free):
    heavy = replace(
        free, state_bytes=10, sent_bytes_a_task=1.0, received_bytes_a_task=5.0, copied_bytes_a_s=20
    )
    apart = costs.Machines("apart", cores=2, machines=4, link_bytes_a_s=4, learning_speed=1)
    found = costs.iteration(heavy, apart, 4, 8)
    over_link = (10 * 2 * 2 + 8 * 1 + 8 * 5) / 4  # two phases, two machines with workers
    through_memory = (40 + 10) / 20  # all of it by the learner, a fourth by each worker
    assert found.moving_s == pytest.approx(over_link + through_memory)
    together = replace(apart, cores=64, machines=1)
    assert costs.iteration(heavy, together, 4, 8).moving_s == pytest.approx(through_memory)


def test_the_learner_holds_workers_up_from_some_number_on(free, here):
    slow = replace(free, learning=costs.Line(1.0, 0.125))
    found = [costs.iteration(slow, here, workers, 8) for workers in (1, 2, 4, 8)]
    assert [each.learning_s for each in found] == [2.0] * 4
    assert costs.saturation(found).workers == 8  # where playing takes one second
    assert costs.saturation(found[:2]) is None
    faster = replace(here, learning_speed=4)
    assert costs.iteration(slow, faster, 1, 8).learning_s == 0.5


def test_lines_go_through_what_was_measured_and_never_below_nothing():
    line = costs.Line.through([2, 4, 8], [2.0, 3.0, 5.0])
    assert (line.fixed_s, line.each_s) == (pytest.approx(1.0), pytest.approx(0.5))
    assert costs.Line.through([2, 4], [3.0, 2.0]) == costs.Line(2.5, 0.0)
    assert costs.Line.through([2, 4], [1.0, 4.0]) == costs.Line(0.0, pytest.approx(0.9))
