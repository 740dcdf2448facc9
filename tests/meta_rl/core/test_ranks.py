from datetime import timedelta

import pytest
import torch

from meta_rl.core import ranks
from meta_rl.core.errors import Silent, UserError
from meta_rl.core.ranks import (
    LostRank,
    Part,
    Ranks,
    check_alike,
    part_at,
    part_of,
    places_in_order,
)
from meta_rl.core.seeding import SharedNoise, Streams, world_seeds
from meta_rl.core.types import Task, Tasks
from meta_rl.experiment.config import load_experiment
from meta_rl.learning import normalization
from meta_rl.learning.normalization import RunningMoments
from meta_rl.runs.folder import RunFolder
from meta_rl.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def as_rank(monkeypatch):
    """Take this process for one of several, which must not send any message."""

    def become(rank, size):
        monkeypatch.setattr(ranks, "_ranks", Ranks(rank, size, rank, size))

    return become


def test_the_ranks_shares_are_the_whole_meta_batch_in_order():
    shares = [list(range(12))[Ranks(rank, 3).share(12)] for rank in range(3)]
    assert shares == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_meta_batch_that_does_not_divide_is_refused_before_anything_is_made(
    as_rank, small_config, tmp_path
):
    as_rank(0, 2)
    experiment = load_experiment(str(small_config(meta_batch_size=3)))
    with pytest.raises(UserError, match=r"meta_batch_size 3 .* over 2 processes; give a"):
        Trainer(experiment, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_agent_that_learns_in_a_single_process_is_refused(
    as_rank, small_config, tmp_path, monkeypatch
):
    from agents.reptile import Reptile

    as_rank(0, 2)
    monkeypatch.setattr(Reptile, "learns_over_ranks", False)
    with pytest.raises(UserError, match="reptile learns in a single process"):
        Trainer(load_experiment(str(small_config("reptile"))), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_each_rank_takes_the_gpu_of_its_number():
    assert Ranks().device("cuda:3") == "cuda:3"
    assert Ranks(5, 8, 1, 4).device("cuda") == "cuda:1"
    assert Ranks(5, 8, 1, 4).device("cpu") == "cpu"
    with pytest.raises(UserError, match="cuda:3 is one GPU, but 8 processes need one each"):
        Ranks(5, 8, 1, 4).device("cuda:3")


def test_the_parts_of_a_minibatch_weigh_as_much_as_they_hold(as_rank):
    which, parts = torch.tensor([5, 0, 4]), []
    for rank in range(3):  # two samples each
        as_rank(rank, 3)
        parts.append(part_of(which, 2))
    assert [part.rows.tolist() for part in parts] == [[0], [0], [1, 0]]  # rank 1 has none
    assert [part.share for part in parts] == [1 / 3, 0, 2 / 3]


def test_samples_of_all_ranks_stand_in_the_order_of_their_numbers(as_rank, monkeypatch):
    numbers = [torch.tensor([0, 1, 4]), torch.tensor([2, 3, 5, 6])]  # as at three times
    monkeypatch.setattr(ranks, "gathered", lambda own: numbers)
    places = []
    for rank in range(2):
        as_rank(rank, 2)
        places.append(places_in_order(numbers[rank]))
    assert places[0].tolist() == [0, 1, -1, -1, 2, -1, -1]
    assert places[1].tolist() == [-1, -1, 0, 1, -1, 2, 3]
    part = part_at(places[1][torch.tensor([5, 4, 2, 0])])
    assert part.rows.tolist() == [2, 0] and part.share == 1 / 2


def test_a_single_process_has_all(identical):
    which = torch.tensor([2, 0])
    assert places_in_order(torch.tensor([3, 5, 8])).tolist() == [0, 1, 2]
    assert identical(vars(part_of(which, 3)), vars(Part(which, 1.0)))
    tree = {"x": torch.ones(2)}
    assert ranks.sum_over_ranks(tree) is tree and ranks.mean_over_ranks(tree) is tree
    assert ranks.gathered(7) == [7]
    check_alike(tree, "it")


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_task_s_noise_is_that_of_a_single_process(as_rank, kind):
    whole = getattr(SharedNoise(Streams(0, CPU).acting), kind)((4, 3, 2))
    tasks, own = Tasks.stack([Task("f", "a", m, (0.0,)) for m in range(2)]), []
    for rank in range(2):
        as_rank(rank, 2)
        own.append(getattr(Streams(0, CPU).noise(tasks), kind)((2, 3, 2)))
    assert torch.equal(torch.cat(own), whole)


def test_a_task_that_is_there_twice_has_the_same_chance_on_whichever_rank():
    tasks = Tasks.stack([Task("f", "a", m, (0.0,)) for m in (0, 0, 1, 0)])
    parts = [tasks.part(slice(0, 2)), tasks.part(slice(2, 4))]
    seeds = [world_seeds(3, part, copies=2) for part in parts]
    together = [*seeds[0], *seeds[1]]
    assert together == world_seeds(3, tasks, copies=2)
    assert len(set(together)) == 8
    assert [part.counted() for part in parts] == [[0, 1], [0, 2]]


def test_moments_are_of_all_ranks_values(monkeypatch):
    values = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    every = torch.ones(30, dtype=torch.bool)
    begun = RunningMoments.empty((2,), CPU).merge(torch.ones(5, 2), every[:5])
    expected = begun.merge(values, every)

    def other(own):  # the other rank has the last 20
        rest = values[10:]
        return [own, (torch.tensor(20.0), rest.mean(0), rest.var(0, unbiased=False))]

    monkeypatch.setattr(normalization, "gathered", other)
    moments = begun.merge(values[:10], every[:10])
    torch.testing.assert_close(vars(moments), vars(expected))


def test_an_error_of_all_ranks_is_told_by_the_first():
    error = UserError("too much")
    assert Ranks(0, 2).told_once(error) is error
    assert isinstance(Ranks(1, 2).told_once(error), Silent)


class Sum:
    """A sum on GPUs that is done when it has been asked for so many times."""

    def __init__(self, asked):
        self.left, self.waited = asked, False

    def is_completed(self):
        self.left -= 1
        return self.left < 0

    def wait(self):
        self.waited = True


@pytest.fixture
def summing(monkeypatch):
    """Let sums on GPUs be done when they are asked for so many times."""

    def after(asked):
        made = Sum(asked)
        monkeypatch.setattr(
            ranks.dist, "all_reduce", lambda whole, group, async_op=False: async_op and made
        )
        return made

    return after


def test_a_sum_on_gpus_is_waited_for_in_python_which_hears_signals(summing):
    made = summing(3)
    ranks._all_reduce(torch.zeros(1), torch.device("cuda"))
    assert made.left == -1 and made.waited


def test_a_rank_that_takes_no_part_in_a_sum_on_gpus_is_lost(summing, monkeypatch):
    monkeypatch.setattr(ranks, "PATIENCE", timedelta(seconds=0.01))
    with pytest.raises(LostRank, match="it has not taken part in a sum"):
        made = summing(10**9)
        ranks._all_reduce(torch.zeros(1), torch.device("cuda"))
    assert not made.waited
