"""Inner optimizers by name, as flags and tables of methods call them."""

from collections.abc import Callable
from typing import TypeAlias

from metarl.core import inner
from metarl.core.inner import InnerOptimizer
from metarl.util import among


MakeInner: TypeAlias = Callable[..., InnerOptimizer]
"""``(lr, *, steps, group) -> InnerOptimizer``, with the arguments of :func:`inner_optimizer`."""

MAX_SIZE = 600  # of a curvature matrix: any kernel, but not miniImageNet's 800-wide head

INNER_OPTIMIZERS: dict[str, MakeInner] = {
    "sgd": lambda lr, **_: inner.sgd(lr),
    "adam": lambda lr, **_: inner.adam(lr),
    "lslr": inner.lslr,
    "meta-sgd": lambda lr, **_: inner.meta_sgd(lr),
    "meta-curvature": lambda lr, **_: inner.meta_curvature(lr, max_size=MAX_SIZE),
    "meta-curvature+lslr": lambda lr, **options: inner.chain(
        inner.meta_curvature(1.0, max_size=MAX_SIZE), inner.lslr(lr, **options)
    ),
}
"""The inner optimizers by name; :func:`register_inner_optimizer` adds one."""

LEARNED_RATES = {*INNER_OPTIMIZERS} - {"sgd", "adam"}
"""Those whose rates are meta-learned, and not a setting that a test may change."""


def register_inner_optimizer(name: str, make: MakeInner, *, learned: bool = False) -> None:
    """Add an inner optimizer: ``--inner NAME`` of every experiment accepts it from here on.

    Args:
        name: The name on the command line, such as ``"sign-sgd"``.
        make: ``make(lr, *, steps, group) -> InnerOptimizer``; see :func:`inner_optimizer`.
        learned: Its constants are meta-learned, so `lr` is only where they start.

    Raises:
        ValueError: If the name is taken.

    Example::

        register_inner_optimizer("half", lambda lr, **_: sgd(lr / 2))
    """
    if name in INNER_OPTIMIZERS:
        raise ValueError(f"there is already an inner optimizer {name!r}: choose another name")
    INNER_OPTIMIZERS[name] = make
    if learned:
        LEARNED_RATES.add(name)


def inner_optimizer(
    name: str,
    lr: float,
    steps: int,
    *,
    clip: float | None = None,
    group: Callable[[str], str] = lambda name: name,
) -> InnerOptimizer:
    """Build an inner optimizer.

    Args:
        name: A name of :data:`INNER_OPTIMIZERS`.
        lr: Its rate, or where learned rates start.
        steps: Inner steps, each of which may have rates of its own.
        clip: Cut the inner gradient to this global norm first.
        group: Names the group of tensors that share the rates of ``lslr``; see there.

    Raises:
        ValueError: If there is no inner optimizer of this name.
    """
    among(INNER_OPTIMIZERS).check("inner", name)
    made = INNER_OPTIMIZERS[name](lr, steps=max(1, steps), group=group)
    return made if clip is None else inner.chain(inner.clip_norm(clip), made)
