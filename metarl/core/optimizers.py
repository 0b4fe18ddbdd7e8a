"""Inner optimizers by name, as flags and tables of methods call them."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from metarl.core.curvature import meta_curvature
from metarl.core.inner import InnerOptimizer, adam, chain, clip_norm, lslr, meta_sgd, sgd


Inner: TypeAlias = Literal[
    "sgd", "adam", "lslr", "meta-sgd", "meta-curvature", "meta-curvature+lslr"
]
MAX_SIZE = 600  # of a curvature matrix: any kernel, but not miniImageNet's 800-wide head


def inner_optimizer(
    name: Inner,
    lr: float,
    steps: int,
    *,
    clip: float | None = None,
    group: Callable[[str], str] = lambda name: name,
) -> InnerOptimizer:
    """Build an inner optimizer.

    Args:
        name: Which one.
        lr: Its rate, or where learned rates start.
        steps: Inner steps, each of which may have rates of its own.
        clip: Cut the inner gradient to this global norm first.
        group: Names the group of tensors that share the rates of ``lslr``; see there.
    """
    makes: dict[Inner, Callable[[], InnerOptimizer]] = {
        "sgd": lambda: sgd(lr),
        "adam": lambda: adam(lr),
        "lslr": lambda: lslr(lr, steps=max(1, steps), group=group),
        "meta-sgd": lambda: meta_sgd(lr),
        "meta-curvature": lambda: meta_curvature(lr, max_size=MAX_SIZE),
        "meta-curvature+lslr": lambda: chain(
            meta_curvature(1.0, max_size=MAX_SIZE), lslr(lr, steps=max(1, steps), group=group)
        ),
    }
    return makes[name]() if clip is None else chain(clip_norm(clip), makes[name]())


LEARNED_RATES = frozenset(get_args(Inner)) - {"sgd", "adam"}
"""Those whose rates are meta-learned, and not a setting that a test may change."""
