"""Means, interquartile means and their confidence intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


# 97.5 % quantiles of Student's t for 1 to 20 degrees of freedom; papers use 1.96 for more samples.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip
RESAMPLES = 2000


def interval95(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the half-width of the 95 % confidence interval of the mean over the first axis.

    For up to 21 samples, the half-width is the quantile of Student's
    t-distribution times the standard error. For more samples, the half-width
    is 1.96 standard errors.

    Args:
        samples: The n samples, of shape (n, *shape).

    Returns:
        The half-widths, of shape (*shape): 0 if n is 1, and NaN where a sample is not finite.

    Example::

        interval95(np.array([1.0, 2.0, 3.0]))  # 2.48
    """
    count = len(samples)
    if count < 2:
        return np.zeros(samples.shape[1:])
    quantile = STUDENT[count - 2] if count - 2 < len(STUDENT) else 1.96
    with np.errstate(invalid="ignore"):  # diverged samples give NaN without a warning
        return np.asarray(quantile * samples.std(0, ddof=1) / np.sqrt(count))


def interquartile_mean(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the middle half of the samples (IQM, Agarwal et al. 2021, section 4.3).

    The lowest and the highest quarter of the samples are discarded, rounded
    down: the result is less sensitive to outliers than the mean, and varies
    less between samples than the median.

    Args:
        samples: The n samples, of shape (n, *shape).

    Returns:
        The interquartile means over the first axis, of shape (*shape); NaN where a sample is NaN.

    Example::

        interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0]))  # 1.5
    """
    cut = len(samples) // 4
    middle = np.sort(samples, axis=0)[cut : len(samples) - cut]
    return np.where(np.isnan(samples).any(0), np.nan, middle.mean(0))


def bootstrap95(
    samples: NDArray[np.float64],
    statistic: Callable[[NDArray[Any]], NDArray[Any]] = interquartile_mean,
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the 95 % stratified bootstrap interval of a statistic (Agarwal et al. 2021).

    The tasks are the strata: for every task separately, the results of all
    runs are resampled with replacement, and the statistic is computed over all
    runs and tasks. The interval consists of the 2.5 % and 97.5 % quantiles over
    2000 resamples. With a single run, the tasks are resampled instead. As every
    bootstrap interval, the interval is too narrow for few runs.

    Args:
        samples: Results of shape (runs, tasks, *shape), on the same tasks in all runs.
        statistic: Function from samples of shape (n, *shape) to an array of shape (*other).
        seed: Random seed of the resamples.

    Returns:
        The lower and the upper ends of the intervals, of shape (2, *other).

    Example::

        low, high = bootstrap95(np.random.default_rng(0).normal(size=(5, 40)))
    """
    strata = samples if len(samples) > 1 else samples.swapaxes(0, 1)
    runs, tasks, *shape = strata.shape
    rng, columns = np.random.default_rng(seed), np.arange(tasks)
    rows = rng.integers(runs, size=(RESAMPLES, runs, tasks))
    found = [statistic(strata[each, columns].reshape(-1, *shape)) for each in rows]
    return np.asarray(np.quantile(found, [0.025, 0.975], axis=0))


def summary(values: NDArray[np.float64]) -> dict[str, list[Any]]:
    """Return the statistics over tasks that evaluations contain, as JSON values.

    Args:
        values: One value per task and number of adaptation steps, of shape (tasks, steps).

    Returns:
        The ``mean`` and the half-width ``interval95`` of its confidence
        interval, the interquartile mean ``iqm`` and the ends ``iqm_interval95``
        of its bootstrap interval, one element per number of adaptation steps.

    Example::

        summary(np.array([[-40.0, -20.0], [-38.0, -22.0]]))["mean"]  # [-39.0, -21.0]
    """
    return {
        "mean": values.mean(0).tolist(),
        "interval95": interval95(values).tolist(),
        "iqm": interquartile_mean(values).tolist(),
        "iqm_interval95": bootstrap95(values[None]).T.tolist(),
    }
