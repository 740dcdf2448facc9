import numpy as np
import pytest
import scipy.stats
from rliable import library, metrics

from meta_rl.evaluation.statistics import (
    AGGREGATES,
    Estimate,
    bootstrap_interval,
    estimate,
    iqm,
    mean,
    median,
    performance_profile,
    probability_of_improvement,
    resampled,
)

RNG = np.random.default_rng(7)
SKEWED = RNG.exponential(size=(5, 8)) + np.arange(8) / 4
SUCCESS = RNG.integers(11, size=(4, 6)) / 10  # shares of ten episodes: many ties
MANY = RNG.exponential(size=200)
OTHER_SUCCESS = np.clip(RNG.integers(11, size=(3, 6)) / 10 + 0.1, 0, 1)


def interval(values, names, **settings):
    """The interval of a mean over tasks, of one run."""
    ends = bootstrap_interval(mean, [np.asarray(values)[None]], names, **settings)
    return None if ends is None else tuple(map(float, ends))


def close_to_sampling_error(ours, theirs, resamples):
    """Assert that ends of two bootstraps differ by what so few resamples explain.

    The 2.5 % quantile of B normal draws has a standard error of sqrt(0.975 * 0.025 / B) / 0.058 of
    their deviation, which is a quarter of the interval's width; four of them are allowed.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    error = np.sqrt(2 * 0.975 * 0.025 / resamples) / 0.058 * (theirs[1] - theirs[0]) / 4
    assert (np.abs(ours - theirs) <= 4 * error + 1e-12).all(), (ours, theirs, error)


def rliable_of(scores, function, resamples, **settings):
    """Point estimates and intervals of the library; it draws from numpy's global generator."""
    np.random.seed(0)
    points, ends = library.get_interval_estimates(
        {"x": scores}, function, reps=resamples, **settings
    )
    return points["x"], ends["x"]


def theirs_of_all(scores):
    return np.array(
        [
            metrics.aggregate_iqm(scores),
            metrics.aggregate_mean(scores),
            metrics.aggregate_median(scores),
        ]
    )


@pytest.mark.parametrize(
    ("scores", "resampling", "task_bootstrap"),
    [
        (SKEWED, "rliable", False),
        (SUCCESS, "rliable", False),
        # Of one run there are only tasks to draw, and of one task only runs: no schemes differ.
        (MANY[None], "whole-runs", True),
        (MANY[:, None], "whole-runs", False),
    ],
)
def test_aggregates_and_their_intervals_are_those_of_rliable(scores, resampling, task_bootstrap):
    resamples = 2500
    points, ends = rliable_of(scores, theirs_of_all, resamples, task_bootstrap=task_bootstrap)
    names = ["a"] * scores.shape[1]
    for column, (name, function) in enumerate(AGGREGATES.items()):
        assert function(scores[None]) == pytest.approx(points[column]), name
        ours = bootstrap_interval(function, [scores], names, resampling, resamples=resamples)
        close_to_sampling_error(ours, ends[:, column], resamples)


def test_the_probability_of_improvement_is_that_of_rliable():
    x, y, resamples = SUCCESS[:, :3], OTHER_SUCCESS[:, :3], 300

    def theirs(x, y):
        return np.array([metrics.probability_of_improvement(x, y)])

    points, ends = rliable_of([x, y], theirs, resamples)
    assert probability_of_improvement(x[None], y[None]) == pytest.approx(points)
    ours = bootstrap_interval(
        probability_of_improvement, [x, y], ["a"] * 3, "rliable", resamples=resamples
    )
    close_to_sampling_error(ours, ends[:, 0], resamples)


def test_performance_profiles_are_those_of_rliable():
    thresholds, resamples = np.linspace(0, 1, 11), 2000  # on the scores themselves: above is above
    np.random.seed(0)
    points, ends = library.create_performance_profile({"x": SUCCESS}, thresholds, reps=resamples)
    np.testing.assert_allclose(performance_profile(SUCCESS[None], thresholds)[0], points["x"])
    ours = bootstrap_interval(
        lambda drawn: performance_profile(drawn, thresholds),
        [SUCCESS],
        ["a"] * 6,
        "rliable",
        resamples=resamples,
    )
    # Shares of 24 scores are steps of 1/24, which a quantile may miss by one.
    np.testing.assert_allclose(ours, ends["x"], atol=1 / 24 + 1e-9)


def test_aggregates_worked_out_by_hand():
    scores = np.array([[0.0, 1.0, 8.0, 100.0], [2.0, 3.0, 4.0, 5.0]])
    assert iqm(scores[None]) == pytest.approx((2 + 3 + 4 + 5) / 4)  # of 0 1 2 3 4 5 8 100
    assert mean(scores[None]) == pytest.approx(123 / 8)
    assert median(scores[None]) == pytest.approx((2 + 6) / 2)  # of the tasks' means 1 2 6 52.5
    np.testing.assert_allclose(
        performance_profile(scores[None], np.array([-1.0, 3.0, 100.0])), [[1, 4 / 8, 0]]
    )
    # 0 < 2, 1 < 3, 8 > 4 and 100 > 5; a tie with itself counts half.
    assert probability_of_improvement(scores[None, :1], scores[None, 1:]) == 0.5
    assert probability_of_improvement(scores[None], scores[None]) == 0.5
    assert probability_of_improvement(scores[None] + 1000, scores[None]) == 1


def test_runs_and_tasks_both_make_the_interval_wider():
    # A score is a run's luck plus a task's ease, so the mean's variance is var(luck) / R plus
    # var(ease) / M: Owen 2007, "The pigeonhole bootstrap".
    luck, ease = RNG.normal(size=(100, 1)), RNG.normal(0, 2, size=(1, 200))
    low, high = bootstrap_interval(mean, [luck + ease], ["a"] * 200, resamples=4000)
    expected = 2 * 1.96 * np.sqrt(luck.var() / 100 + ease.var() / 200)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_the_luck_of_a_seed_is_shared_by_its_tasks_so_runs_are_drawn_whole():
    generator, covered = np.random.default_rng(0), {"whole-runs": 0, "rliable": 0}
    for seed in range(150):
        luck = generator.normal(size=(8, 1))
        scores = luck + 0.3 * generator.normal(size=(8, 20))
        for resampling in covered:
            low, high = bootstrap_interval(
                mean, [scores], ["a"] * 20, resampling, resamples=300, seed=seed
            )
            covered[resampling] += low <= 0 <= high
    # Eight seeds are few, so even whole runs cover a little less than 95 %.
    assert covered["whole-runs"] / 150 > 0.85
    assert covered["rliable"] / 150 < 0.5


def test_two_agents_meet_on_the_same_drawn_tasks():
    ease = np.arange(10.0)[None]
    found = estimate(probability_of_improvement, [ease + 0.5, ease], ["a"] * 10)
    assert found == Estimate(1.0, 1.0, 1.0)


def test_what_is_drawn_anew_is_said():
    many, one = ["a", "a", "b", "b"], ["a", "b", "b"]
    assert resampled([2], many) == ("seeds", "tasks")
    assert resampled([1], many) == ("tasks",)
    assert resampled([2], one) == resampled([2], many, "rliable") == ("seeds",)
    assert resampled([1], one) == resampled([1], many, "rliable") == ()
    assert resampled([1, 2], many) == ("some seeds", "tasks")

    scores = np.arange(3.0)[None]
    assert estimate(mean, [scores], one) == Estimate(1.0)
    assert estimate(mean, [np.concatenate([scores, scores + 1])], one).low == 1.0


def test_constant_values_have_an_interval_without_width():
    assert interval(np.full(7, 0.3), ["a"] * 4 + ["b"] * 3) == pytest.approx((0.3, 0.3))


def test_the_interval_is_that_of_scipy_where_all_tasks_have_one_name():
    values = np.random.default_rng(3).exponential(size=30)
    ours = interval(values, ["a"] * 30, resamples=50_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = values.std() / np.sqrt(30)
    np.testing.assert_allclose(ours, theirs, atol=0.03 * error)


def test_the_interval_is_that_of_the_normal_distribution_where_tasks_are_many():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2000)
    for confidence, z in ((0.95, 1.960), (0.8, 1.282)):
        low, high = interval(values, ["a"] * 2000, confidence=confidence, resamples=4000)
        half = z * values.std() / np.sqrt(2000)
        np.testing.assert_allclose(
            [low, high], values.mean() + np.array([-half, half]), atol=0.08 * half
        )


def test_it_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = interval(
            generator.uniform(size=40), ["a"] * 40, confidence=0.9, resamples=400, seed=seed
        )
        covered += low <= 0.5 <= high
    # Its standard error is sqrt(0.9 * 0.1 / 300) = 0.017.
    assert 0.84 < covered / 300 < 0.95


def test_differences_between_names_are_no_uncertainty():
    # Names are far apart, but the tasks of each are alike: only those are resampled.
    values = np.array([0.0, 0.01, 0.02, 100.0, 100.01, 100.02])
    low, high = interval(values, ["a"] * 3 + ["b"] * 3)
    assert 0 < high - low < 0.03
    mixed_low, mixed_high = interval(values, ["a"] * 6)
    assert mixed_high - mixed_low > 50


def test_the_order_of_tasks_within_names_and_of_names_does_not_matter():
    values, names = np.array([1.0, 5.0, 2.0, 9.0]), ["a", "b", "a", "b"]
    order = [0, 2, 1, 3]
    assert interval(values, names) == interval(values[order], [names[row] for row in order])


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=10)
    first, again, other = (interval(values, ["a"] * 10, seed=s) for s in (0, 0, 1))
    assert first == again != other


def test_many_scores_are_resampled_in_parts_with_the_same_outcome():
    scores = RNG.normal(size=(2, 3000))
    names = ["a"] * 3000
    whole = np.array(bootstrap_interval(mean, [scores], names, resamples=160))
    sizes = []

    def watched(drawn):
        sizes.append(len(drawn))
        return mean(drawn)

    in_parts = np.array(bootstrap_interval(watched, [scores], names, resamples=400))
    assert max(sizes) == 166 and sum(sizes) == 400  # a million scores at once
    np.testing.assert_allclose(in_parts, whole, atol=0.02)
