"""Training schedules as pure functions of the progress, without state to checkpoint."""

import math


def multi_step_weights(steps: int, progress: float) -> tuple[float, ...] | None:
    """Return the weights of the query losses after 1, ..., K inner steps (MAML++).

    The weights are equal at first. The weights of all steps but the last decrease linearly to
    0.03/K, and the last weight increases to keep the sum at 1. The minimum of 0.03/K is that of
    MAML++'s code; the paper decreases them to 0.

    Args:
        steps: Number of inner steps K.
        progress: Completed fraction of the annealing phase.

    Returns:
        K weights, or ``None`` if only the last loss counts (`progress` of at least 1, or fewer than
        2 steps).

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
    """Return a value on a half cosine from `start` to `end` (MAML++'s outer learning rate).

    Args:
        start: Value at progress 0.
        end: Value at progress 1 and later.
        progress: Completed fraction of training.

    Example::

        >>> from metarl.supervised import cosine_schedule
        >>> round(cosine_schedule(1e-3, 1e-5, 0.5), 6)
        0.000505
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def linear_schedule(start: float, end: float, progress: float) -> float:
    """Return a value on a straight line from `start` to `end` (Reptile's outer learning rate).

    Args:
        start: Value at progress 0.
        end: Value at progress 1 and later.
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
"""Schedules of the outer learning rate by name: ``(start, end, progress) -> rate``."""
