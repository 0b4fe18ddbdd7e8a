"""What changes in the course of training: pure functions of the iteration, nothing to save."""

import math


def multi_step_weights(steps: int, progress: float) -> tuple[float, ...] | None:
    """Return the weights of the query losses after 1, ..., K steps (MAML++'s code).

    They begin equal; those of all steps but the last fall to 0.03/K and the last takes the rest.
    The paper's text lets them fall to 0; the floor is the code's.

    Args:
        steps: K.
        progress: Part of the annealing that has passed; from 1 on the last loss stands alone,
            which is ``None``.
    """
    if progress >= 1 or steps < 2:
        return None
    early = max((1 - progress) / steps, 0.03 / steps)
    last = min((1 + progress * (steps - 1)) / steps, 1 - (steps - 1) * 0.03 / steps)
    return (early,) * (steps - 1) + (last,)


def cosine_schedule(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` along half a cosine (MAML++'s outer rate)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def linear_schedule(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` in a straight line (Reptile's outer rate)."""
    return start + (end - start) * min(progress, 1.0)


SCHEDULES = {
    "constant": lambda start, end, progress: start,
    "cosine": cosine_schedule,
    "linear": linear_schedule,
}
"""Schedules of the outer rate by name: ``(start, end, progress) -> rate``."""
