"""Interquartile means and bootstrap intervals against closed forms and synthetic data."""

import numpy as np
import pytest

from metarl.drawing.profiles import fraction_above
from metarl.util import bootstrap95, interquartile_mean, interval95, summary


def test_the_interquartile_mean_discards_a_quarter_on_each_side() -> None:
    assert interquartile_mean(np.array([5.0, 1, 2, 100, 3, 4, -100, 6])) == 3.5
    assert interquartile_mean(np.array([1.0, 2, 6])) == 3.0  # a quarter of 3 is rounded down to 0
    two = interquartile_mean(np.arange(16.0).reshape(8, 2))
    assert two.tolist() == [7.0, 8.0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 40, 101])
def test_the_interquartile_mean_equals_scipy(count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(size=(count, 3))
    np.testing.assert_allclose(
        interquartile_mean(values), stats.trim_mean(values, 0.25), rtol=1e-12
    )


def test_a_diverged_run_makes_the_interquartile_mean_nan() -> None:
    values = np.arange(16.0).reshape(8, 2)
    values[3, 1] = np.nan
    assert np.isnan(interquartile_mean(values)).tolist() == [False, True]


def test_the_bootstrap_resamples_runs_within_every_task() -> None:
    tasks = np.array([0.0, 1000.0, -500.0, 20.0])
    noise = np.random.default_rng(0).normal(size=(6, 4))
    low, high = bootstrap95(tasks + noise, lambda values: values.mean(0))
    # With strata, differences between tasks do not widen the interval; closed form of the variance.
    error = (noise.var(0) / 6 / 16).sum() ** 0.5
    assert low == pytest.approx((tasks + noise).mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx((tasks + noise).mean() + 1.96 * error, abs=0.1 * error)
    assert high - low < 3


def test_a_single_run_is_resampled_over_tasks() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap95(values[None], lambda values: values.mean(0))
    assert (high - low) / 2 == pytest.approx(interval95(values), rel=0.05)
    assert bootstrap95(np.ones((1, 1, 2))).tolist() == [[1, 1], [1, 1]]


def test_the_seed_determines_the_bootstrap_interval() -> None:
    values = np.random.default_rng(2).normal(size=(4, 10))
    first, again, other = (bootstrap95(values, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_bootstrap_intervals_cover_the_true_interquartile_mean() -> None:
    rng, tasks = np.random.default_rng(3), np.linspace(-2, 2, 8)
    truth = interquartile_mean((tasks + rng.normal(size=(100_000, 8))).ravel())
    covered = 0
    for _ in range(100):
        low, high = bootstrap95(tasks + rng.normal(size=(10, 8)))
        covered += low <= truth <= high
    assert 88 <= covered <= 99


def test_a_summary_contains_one_value_per_number_of_steps() -> None:
    found = summary(np.array([[0.0, 4.0], [1.0, 5.0], [2.0, 9.0], [30.0, 6.0]]))
    assert found["mean"] == [8.25, 6.0]
    assert found["iqm"] == [1.5, 5.5]
    assert np.shape(found["interval95"]) == (2,)
    assert all(low <= x <= high for x, (low, high) in zip(found["iqm"], found["iqm_interval95"],
                                                         strict=True))  # fmt: skip


def test_profiles_are_fractions_of_results_above_thresholds() -> None:
    values = np.array([0.0, 1.0, 2.0, np.nan])
    assert fraction_above(values, np.array([-1.0, 0.0, 1.5, 2.0])).tolist() == [0.75, 0.5, 0.25, 0]
