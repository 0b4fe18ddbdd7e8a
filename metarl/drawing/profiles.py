"""Performance profiles: the fraction of results above each threshold."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from metarl.util import bootstrap95, optional, replacing


THRESHOLDS = 101  # points of each curve


def performance_profiles(
    results: dict[str, Float[np.ndarray, "runs tasks"]], out: Path, *, label: str
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

    Raises:
        ImportError: If matplotlib is not installed; the message contains the install command.

    Example::

        results = {"maml-trpo": np.random.default_rng(0).normal(size=(3, 40))}
        performance_profiles(results, Path("profiles.png"), label="return after adaptation")
    """
    plt = optional.pyplot()
    finite = np.concatenate([each[np.isfinite(each)] for each in results.values()])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    # The first point is below all results, where every curve is 1.
    thresholds = np.linspace(low - 0.02 * (high - low), high, THRESHOLDS)
    drawn, axes = plt.subplots(figsize=(5.5, 4.2))
    for name, each in results.items():
        ends = bootstrap95(each, lambda values: fraction_above(values, thresholds))
        (line,) = axes.plot(
            thresholds, fraction_above(each.ravel(), thresholds), label=optional.plain_text(name)
        )
        axes.fill_between(thresholds, *ends, color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel=label, ylabel="fraction of runs and tasks above", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    drawn.tight_layout()
    with replacing(out) as temporary:
        drawn.savefig(temporary, dpi=150)
    plt.close(drawn)


def fraction_above(
    values: Float[np.ndarray, " n"], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the fraction of `values` that are greater than each threshold.

    Example::

        fraction_above(np.array([0.0, 1.0]), np.array([0.5]))  # [0.5]
    """
    return np.asarray((values[:, None] > thresholds).mean(0))
