"""Confidence intervals for means."""

import numpy as np
from numpy.typing import NDArray


# 97.5 % quantiles of Student's t for 1 to 20 degrees of freedom; papers use 1.96 for more samples.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


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
