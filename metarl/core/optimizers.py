"""The registry of the inner optimizers that ``--inner NAME`` can select."""

from collections.abc import Callable
from typing import TypeAlias

from metarl.core import inner
from metarl.core.inner import InnerOptimizer
from metarl.util import among


MakeInner: TypeAlias = Callable[..., InnerOptimizer]
"""Function that builds an inner optimizer, ``(lr, *, steps, group) ->
InnerOptimizer``. :func:`inner_optimizer` describes the arguments."""

# Largest mode with a learned curvature matrix. All modes of convolution kernels are smaller; the
# 800 inputs of the linear head on miniImageNet exceed the limit and keep the identity.
MAX_SIZE = 600

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
"""Builders of inner optimizers by name; :func:`register_inner_optimizer` adds an entry."""

LEARNED_CONSTANTS = {*INNER_OPTIMIZERS} - {"sgd", "adam"}
"""Names of inner optimizers with meta-learned hyperparameters."""

LEARNED_RATES = LEARNED_CONSTANTS - {"meta-curvature"}
"""Names of inner optimizers with meta-learned step sizes, which evaluations
cannot change. The step size of Meta-Curvature is not learned."""


def register_inner_optimizer(name: str, make: MakeInner, *, learned: bool = False) -> None:
    """Register an inner optimizer for ``--inner NAME`` in all experiments.

    Args:
        name: Name on the command line, such as ``"sign-sgd"``.
        make: Function ``(lr, *, steps, group) -> InnerOptimizer`` that builds
            the optimizer; :func:`inner_optimizer` describes the arguments.
        learned: Whether the step sizes are meta-learned, with `lr` as the
            initial value. If set, evaluations cannot change the step size.

    Raises:
        ValueError: If the name is already registered.

    Example::

        from metarl.core import register_inner_optimizer, sgd

        register_inner_optimizer("half", lambda lr, **_: sgd(lr / 2))
        # `--inner half` now selects gradient descent with half of the step size
    """
    if name in INNER_OPTIMIZERS:
        raise ValueError(f"inner optimizer {name!r} is already registered; choose a different name")
    INNER_OPTIMIZERS[name] = make
    if learned:
        LEARNED_CONSTANTS.add(name)
        LEARNED_RATES.add(name)


def inner_optimizer(
    name: str,
    lr: float,
    steps: int,
    *,
    clip: float | None = None,
    group: Callable[[str], str] = lambda name: name,
) -> InnerOptimizer:
    """Build an inner optimizer by name.

    Args:
        name: A key of :data:`INNER_OPTIMIZERS`.
        lr: Step size, or the initial value for learned step sizes.
        steps: Number of inner steps, for optimizers with a separate step size per inner step.
        clip: Global norm to which the gradient is clipped before the
            optimizer is applied. None disables clipping.
        group: Function that maps a parameter name to a group name; tensors in
            the same group share step sizes. Only used by ``lslr`` and
            ``meta-curvature+lslr``; see :func:`~metarl.core.inner.lslr`.

    Raises:
        ValueError: If `name` is not registered, or `lr` or `clip` is out of range.
    """
    among(INNER_OPTIMIZERS).check("inner", name)
    made = INNER_OPTIMIZERS[name](lr, steps=max(1, steps), group=group)
    return made if clip is None else inner.chain(inner.clip_norm(clip), made)
