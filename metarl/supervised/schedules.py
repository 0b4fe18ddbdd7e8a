"""Training schedules as pure functions of training progress, without state to checkpoint."""

import math


def multi_step_weights(steps: int, progress: float) -> tuple[float, ...] | None:
    """Return the weights of the query losses after 1, ..., K inner steps (Antoniou et al. 2019).

    All weights are equal at progress 0. As progress increases, the weight of the last step
    increases, the other weights decrease linearly to 0.03/K, and the sum of all weights stays 1.
    The minimum 0.03/K is from the code of MAML++; in the paper, the minimum is 0.

    Args:
        steps: Number of inner steps K.
        progress: Completed fraction of the annealing phase; 0 at the start of training.

    Returns:
        One weight per step. ``None`` if only the loss after the last step is used, which is the
        case if `progress` is at least 1 or `steps` is less than 2.

    Example::

        >>> from metarl.supervised import multi_step_weights
        >>> multi_step_weights(5, 0.0)
        (0.2, 0.2, 0.2, 0.2, 0.2)
    """
    if progress >= 1 or steps < 2:
        return None
    early = max((1 - progress) / steps, 0.03 / steps)
    last = min((1 + progress * (steps - 1)) / steps, 1 - (steps - 1) * 0.03 / steps)
    return (early,) * (steps - 1) + (last,)


def cosine_schedule(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` to `end` along a half cosine.

    MAML++ uses this schedule for the outer learning rate.

    Args:
        start: Value at progress 0.
        end: Value at progress 1 or more.
        progress: Completed fraction of training.

    Example::

        >>> from metarl.supervised import cosine_schedule
        >>> round(cosine_schedule(1e-3, 1e-5, 0.5), 6)
        0.000505
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def linear_schedule(start: float, end: float, progress: float) -> float:
    """Interpolate linearly from `start` to `end`.

    Reptile uses this schedule for the outer learning rate.

    Args:
        start: Value at progress 0.
        end: Value at progress 1 or more.
        progress: Completed fraction of training.

    Example::

        >>> from metarl.supervised import linear_schedule
        >>> linear_schedule(1.0, 0.0, 0.75)
        0.25
    """
    return start + (end - start) * min(progress, 1.0)


SCHEDULES = {
    "constant": lambda start, end, progress: start,
    "cosine": cosine_schedule,
    "linear": linear_schedule,
}
"""Schedules for the outer learning rate by name: functions ``(start, end, progress) -> rate``."""
