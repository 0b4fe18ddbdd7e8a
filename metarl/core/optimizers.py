"""Inner optimizers by name, as flags and tables of methods call them."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from metarl.core.curvature import meta_curvature
from metarl.core.inner import InnerOptimizer, adam, chain, lslr, meta_sgd, sgd


Inner: TypeAlias = Literal[
    "sgd", "adam", "lslr", "meta-sgd", "meta-curvature", "meta-curvature+lslr"
]
MAX_SIZE = 600  # of a curvature matrix: any kernel, but not miniImageNet's 800-wide head


def _meta_curvature(lr: float, steps: int) -> InnerOptimizer:
    del steps
    return meta_curvature(lr, max_size=MAX_SIZE)


def _lslr(lr: float, steps: int) -> InnerOptimizer:
    return lslr(lr, steps=max(1, steps))


INNER: dict[Inner, Callable[[float, int], InnerOptimizer]] = {
    "sgd": lambda lr, steps: sgd(lr),
    "adam": lambda lr, steps: adam(lr),
    "lslr": _lslr,
    "meta-sgd": lambda lr, steps: meta_sgd(lr),
    "meta-curvature": _meta_curvature,
    "meta-curvature+lslr": lambda lr, steps: chain(_meta_curvature(1.0, steps), _lslr(lr, steps)),
}
"""``(initial rate, inner steps) -> inner optimizer``."""

LEARNED_RATES = frozenset(INNER) - {"sgd", "adam"}
"""Those whose rates are meta-learned, and not a setting that a test may change."""
