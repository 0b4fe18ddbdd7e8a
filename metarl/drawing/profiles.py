"""Performance profiles: the fraction of results above each threshold."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from metarl.drawing.style import (
    PANEL,
    label_ticks,
    legend_height,
    save_figure,
    shared_legend,
    styled,
)
from metarl.util import bootstrap95, optional


THRESHOLDS = 101  # points of each curve


def performance_profiles(
    results: dict[str, Float[np.ndarray, "runs tasks"]],
    out: Path,
    *,
    label: str,
    percent: bool = False,
) -> None:
    """Draw performance profiles (Agarwal et al. 2021, section 4.2).

    The curve of a method is the fraction of the results, over all runs and
    tasks, that are greater than a threshold. Bands are pointwise 95 %
    stratified bootstrap intervals, see :func:`metarl.util.bootstrap95`.

    Args:
        results: Results by method, of shape (runs, tasks). NaN, the result of
            a diverged run, is below every threshold.
        out: Image file to write.
        label: Label of the x axis.
        percent: Whether results are fractions that the x axis shows in percent.

    Raises:
        ImportError: If matplotlib is not installed; the message contains the install command.

    Example::

        results = {"maml-trpo": np.random.default_rng(0).normal(size=(3, 40))}
        performance_profiles(results, Path("profiles.png"), label="return after adaptation")
    """
    finite = np.concatenate([each[np.isfinite(each)] for each in results.values()])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    # The first point is below all results, where every curve is 1.
    thresholds = np.linspace(low - 0.02 * (high - low), high, THRESHOLDS)
    with styled("default"):
        width, height = PANEL["default"]
        size = (width, height + legend_height(list(results), width))
        drawn, axes = optional.pyplot().subplots(figsize=size, layout="constrained")
        for name, each in results.items():
            ends = bootstrap95(each, lambda values: fraction_above(values, thresholds))
            above = fraction_above(each.ravel(), thresholds)
            (line,) = axes.plot(thresholds, above, label=optional.plain_text(name))
            axes.fill_between(thresholds, *ends, color=line.get_color(), alpha=0.2, lw=0)
        axes.set(xlabel=label, ylabel="runs and tasks with a higher value", ylim=(-0.03, 1.03))
        label_ticks(axes.xaxis, percent=percent)
        label_ticks(axes.yaxis, percent=True)
        shared_legend(drawn)
        save_figure(drawn, out)


def fraction_above(
    values: Float[np.ndarray, " n"], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the fraction of `values` that are greater than each threshold.

    Example::

        fraction_above(np.array([0.0, 1.0]), np.array([0.5]))  # [0.5]
    """
    return np.asarray((values[:, None] > thresholds).mean(0))
