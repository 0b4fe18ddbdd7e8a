"""Inner optimizers: gradient transformations whose constants may be meta-learned.

Every optimizer is a value of three pure functions. `update` returns what is *added* to the
parameters, so that optimizers compose.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from metarl.core.types import Params


class InnerOptimizer(NamedTuple):
    """A gradient transformation.

    Attributes:
        constants: ``fast parameters -> learned constants``, by parameter name; ``{}`` if none.
        state: ``fast parameters -> state`` (moments); ``()`` for most.
        update: ``(constants, gradients, state, step) -> (updates, state)``.
    """

    constants: Callable[[Params], Params]
    state: Callable[[Params], Any]
    update: Callable[[Params, Params, Any, int], tuple[Params, Any]]


def _no_constants(params: Params) -> Params:
    del params
    return {}


def _no_state(params: Params) -> tuple[()]:
    del params
    return ()


def sgd(lr: float | Sequence[float]) -> InnerOptimizer:
    """Gradient descent, θ' = θ − α ∇L (Finn et al. 2017, eq. 1).

    Args:
        lr: α, or one rate per inner step; steps beyond the last rate use the last.

    Raises:
        ValueError: If a rate is negative or none is given.
    """
    rates = tuple(lr) if isinstance(lr, Sequence) else (lr,)
    if not rates or min(rates) < 0:
        raise ValueError(f"lr must be one or more rates of at least 0, got {lr}")

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        del constants
        rate = rates[min(step, len(rates) - 1)]
        return {name: -rate * g for name, g in grads.items()}, state

    return InnerOptimizer(_no_constants, _no_state, update)


def meta_sgd(lr: float) -> InnerOptimizer:
    """Gradient descent with one learned rate per scalar parameter (Li et al. 2017, eq. 3).

    Args:
        lr: The value at which every rate starts; equal to :func:`sgd` until the rates are learned.

    Raises:
        ValueError: If `lr` is negative.
    """
    if lr < 0:
        raise ValueError(f"lr must be at least 0, got {lr}")

    def constants(params: Params) -> Params:
        return {f"lr.{name}": torch.full_like(p, lr) for name, p in params.items()}

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        del step
        return {name: -constants[f"lr.{name}"] * g for name, g in grads.items()}, state

    return InnerOptimizer(constants, _no_state, update)
