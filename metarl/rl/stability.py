"""Warnings about updates that leave the policy unchanged or change it too much."""

from functools import cache

from metarl.core import Metrics
from metarl.core.speed import processes
from metarl.util import warn


ADVICE = (
    "scale the observations to values near 1 (for example with "
    "gymnasium.wrappers.TransformObservation)"
)
PATIENCE = 3
LARGEST_KL = 100.0  # nats; updates usually have a KL divergence of 0.01 to 1


class RejectedSteps:
    """A counter that warns after three consecutive updates without an accepted step."""

    def __init__(self) -> None:
        """Start counting at zero."""
        self._count = 0

    def add(self, *, accepted: bool) -> None:
        """Record an update; warn after the third consecutive update without an accepted step."""
        self._count = 0 if accepted else self._count + 1
        if self._count == PATIENCE and processes.writes():
            warn(
                f"the line search has accepted no step in {PATIENCE} consecutive updates, so the "
                f"policy does not change. To fix this, {ADVICE}, lower inner_lr, or collect more "
                "episodes"
            )


def warn_of_large_kl(metrics: Metrics) -> None:
    """Warn once per process if a KL divergence (``outer/kl*``) exceeds 100 nats or is NaN."""
    found = [float(value) for name, value in metrics.items() if name.startswith("outer/kl")]
    if not all(value <= LARGEST_KL for value in found):
        _warn_of_large_kl()


@cache
def _warn_of_large_kl() -> None:
    if processes.writes():
        warn(
            f"the KL divergence of an update is NaN or exceeds {LARGEST_KL:g} nats, which can make "
            f"training unstable. To fix this, {ADVICE}, or lower outer_lr"
        )
