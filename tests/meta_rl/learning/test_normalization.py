import torch

from meta_rl.learning.normalization import RunningMoments

CPU = torch.device("cpu")


def batches():
    """Three batches of different sizes and scales, with masks."""
    generator = torch.Generator().manual_seed(0)
    for size, scale in ((7, 1.0), (40, 10.0), (3, 0.1)):
        values = scale * torch.randn(size, 2, 3, generator=generator) + scale
        yield values, torch.rand(size, 2, generator=generator) < 0.7


def test_merging_batches_gives_the_moments_of_all_their_valid_rows():
    moments = RunningMoments.empty((3,), CPU)
    for values, valid in batches():
        moments = moments.merge(values, valid)

    rows = torch.cat([values[valid] for values, valid in batches()])
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.variance, rows.var(0, unbiased=False))


def test_scalars_have_moments_too():
    moments = RunningMoments.empty((), CPU)

    moments = moments.merge(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False]))

    assert (moments.mean, moments.variance, moments.count) == (2.0, 1.0, 2.0)


def test_the_values_seen_normalize_to_mean_0_and_variance_1():
    values = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 4 + 2
    moments = RunningMoments.empty((3,), CPU).merge(values, torch.ones(100, dtype=torch.bool))

    normalized = moments.normalize(values)

    torch.testing.assert_close(normalized.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.var(0, unbiased=False), torch.ones(3))


def test_nothing_seen_normalizes_nothing_away():
    values = torch.tensor([1.0, -2.0, 3.0])

    torch.testing.assert_close(RunningMoments.empty((3,), CPU).normalize(values), values)


def test_normalized_values_are_clipped_and_a_constant_does_not_divide_by_zero():
    constant = torch.full((5, 1), 2.0)
    moments = RunningMoments.empty((1,), CPU).merge(constant, torch.ones(5, dtype=torch.bool))

    assert moments.normalize(torch.tensor([2.0, 3.0, 1.0])).tolist() == [0.0, 10.0, -10.0]


def test_values_far_from_0_are_scaled_so_that_they_still_differ():
    rewards = torch.tensor([4.5, 5.0, 5.5])  # a mean of 12 deviations
    moments = RunningMoments.empty((), CPU).merge(rewards, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(moments.scale(rewards), rewards)  # in fifths of the mean
    assert moments.scale(-rewards).amin() > -10 and moments.scale(torch.zeros(())) == 0

    near = RunningMoments.empty((), CPU).merge(rewards - 3, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(near.scale(rewards - 3), (rewards - 3) / near.std)
