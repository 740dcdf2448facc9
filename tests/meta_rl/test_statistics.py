import numpy as np
import pytest
import scipy.stats

from meta_rl.statistics import bootstrap_interval


def test_constant_values_have_an_interval_without_width():
    assert bootstrap_interval(np.full(7, 0.3), ["a"] * 4 + ["b"] * 3) == pytest.approx((0.3, 0.3))


def test_a_name_with_one_task_has_no_interval():
    assert bootstrap_interval(np.array([0.0, 1.0, 5.0]), ["a", "b", "b"]) is None


def test_the_interval_is_that_of_scipy_where_all_tasks_have_one_name():
    values = np.random.default_rng(3).exponential(size=30)
    ours = bootstrap_interval(values, ["a"] * 30, resamples=50_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = values.std() / np.sqrt(30)
    np.testing.assert_allclose(ours, theirs, atol=0.03 * error)


def test_the_interval_is_that_of_the_normal_distribution_where_tasks_are_many():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2000)
    for confidence, z in ((0.95, 1.960), (0.8, 1.282)):
        low, high = bootstrap_interval(values, ["a"] * 2000, confidence, resamples=4000)
        half = z * values.std() / np.sqrt(2000)
        np.testing.assert_allclose(
            [low, high], values.mean() + np.array([-half, half]), atol=0.08 * half
        )


def test_it_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(
            generator.uniform(size=40), ["a"] * 40, confidence=0.9, resamples=400, seed=seed
        )
        covered += low <= 0.5 <= high
    # Its standard error is sqrt(0.9 * 0.1 / 300) = 0.017.
    assert 0.84 < covered / 300 < 0.95


def test_differences_between_names_are_no_uncertainty():
    # Names are far apart, but the tasks of each are alike: only those are resampled.
    values = np.array([0.0, 0.01, 0.02, 100.0, 100.01, 100.02])
    low, high = bootstrap_interval(values, ["a"] * 3 + ["b"] * 3)
    assert 0 < high - low < 0.03
    mixed_low, mixed_high = bootstrap_interval(values, ["a"] * 6)
    assert mixed_high - mixed_low > 50


def test_the_order_of_tasks_within_names_and_of_names_does_not_matter():
    values, names = np.array([1.0, 5.0, 2.0, 9.0]), ["a", "b", "a", "b"]
    order = [0, 2, 1, 3]
    assert bootstrap_interval(values, names) == bootstrap_interval(
        values[order], [names[row] for row in order]
    )


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=10)
    first, again, other = (bootstrap_interval(values, ["a"] * 10, seed=s) for s in (0, 0, 1))
    assert first == again != other
