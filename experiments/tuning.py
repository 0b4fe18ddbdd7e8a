"""Selection of a step size on validation tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl.util import Table


def best_rate(
    title: str, measure: str, rates: Sequence[float], results: Any, *, least: bool = False
) -> tuple[float, Table]:
    """Select the step size with the best result.

    Args:
        title: Title of the table.
        measure: Name of the metric, such as ``"mean return"``.
        rates: Step sizes to compare.
        results: One result per step size; NaN for step sizes that diverge.
        least: Whether the smallest result is the best, as for a loss.

    Returns:
        The selected step size, and a table of all results.

    Raises:
        ValueError: If no result is finite.
    """
    if not np.isfinite(results).any():
        raise ValueError(
            f"adaptation diverges for all step sizes {tuple(rates)}. Use fewer inner steps"
        )
    rows = [[f"{rate:g}", f"{result:.4g}"] for rate, result in zip(rates, results, strict=True)]
    best = (np.nanargmin if least else np.nanargmax)(results)
    return rates[int(best)], Table(title, ["inner lr", measure], rows)
