"""The choice of a step size on validation tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl.util import Table


def best_rate(
    title: str, measure: str, rates: Sequence[float], results: Any, *, least: bool = False
) -> tuple[float, Table]:
    """Return the step size with the best result, and a table of all results.

    Args:
        title: Title of the table.
        measure: Name of the result, such as ``"mean return"``.
        rates: Step sizes.
        results: One result per step size; NaN marks a step size that diverges.
        least: Whether the smallest result is the best one, as for a loss.

    Raises:
        ValueError: If no result is finite.
    """
    if not np.isfinite(results).any():
        raise ValueError(f"all step sizes {tuple(rates)} diverge. Use fewer inner steps")
    rows = [[f"{rate:g}", f"{result:.4g}"] for rate, result in zip(rates, results, strict=True)]
    best = (np.nanargmin if least else np.nanargmax)(results)
    return rates[int(best)], Table(title, ["inner lr", measure], rows)
