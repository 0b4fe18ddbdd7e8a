"""Inner optimizers: gradient transformations whose hyperparameters can be meta-learned.

An optimizer consists of three pure functions, `constants`, `state` and
`update`. `update` returns the values to *add* to the parameters, so that
:func:`chain` can compose optimizers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core.types import Params
from metarl.util import at_least, greater_than


class InnerOptimizer(NamedTuple):
    """An inner optimizer as three functions.

    Attributes:
        constants: ``params -> constants``, the initial values of the learned
            hyperparameters, such as step sizes, by name; ``{}`` for
            optimizers without learned hyperparameters.
        state: ``params -> state``, the initial state such as moments; ``()``
            for optimizers without state.
        update: ``(constants, gradients, state, step) -> (updates, state)``,
            the updates to add to the parameters and the next state. `step`
            starts at 0.
    """

    constants: Callable[[Params], Params]
    state: Callable[[Params], Any]
    update: Callable[[Params, Params, Any, int], tuple[Params, Any]]


def no_constants(_: Params) -> Params:
    """Return ``{}``; the `constants` function for optimizers that learn no hyperparameters."""
    return {}


def no_state(_: Params) -> tuple[()]:
    """Return ``()``; the `state` function for optimizers without state."""
    return ()


def sgd(lr: float | Sequence[float]) -> InnerOptimizer:
    """Return a gradient-descent optimizer, θ' = θ − α ∇L (Finn et al. 2017, eq. 1).

    Args:
        lr: Step size α, or a sequence with one step size per inner step.
            Steps after the end of the sequence use the last step size.

    Raises:
        ValueError: If a step size is negative, or `lr` is an empty sequence.
    """
    rates = tuple(lr) if isinstance(lr, Sequence) else (lr,)
    if not rates:
        raise ValueError("lr must contain at least one step size, got none. Pass a number")
    at_least(0).check("lr", rates)

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        rate = rates[min(step, len(rates) - 1)]
        return {name: -rate * g for name, g in grads.items()}, state

    return InnerOptimizer(no_constants, no_state, update)


def meta_sgd(lr: float) -> InnerOptimizer:
    """Return a Meta-SGD optimizer (Li et al. 2017, eq. 3).

    The optimizer learns one step size per element of every parameter tensor.

    Args:
        lr: Initial value for all step sizes.

    Raises:
        ValueError: If `lr` is negative.
    """
    at_least(0).check("lr", lr)

    def constants(params: Params) -> Params:
        return {f"lr.{name}": torch.full_like(p, lr) for name, p in params.items()}

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        return {name: -constants[f"lr.{name}"] * g for name, g in grads.items()}, state

    return InnerOptimizer(constants, no_state, update)


def lslr(
    lr: float, *, steps: int, group: Callable[[str], str] = lambda name: name
) -> InnerOptimizer:
    """Return LSLR: gradient descent with one learned step size per tensor and inner step.

    LSLR is part of MAML++ (Antoniou et al. 2019).

    Args:
        lr: Initial value for all step sizes.
        steps: Number of inner steps with separate step sizes. All further
            inner steps use the step sizes of the last of these steps.
        group: Function that maps a parameter name to a group name, such as
            the name of a layer. Tensors in the same group share step sizes.
            Defaults to one group per tensor.

    Raises:
        ValueError: If `lr` is negative, or `steps` is less than 1.
    """
    at_least(0).check("lr", lr)
    at_least(1).check("steps", steps)

    def constants(params: Params) -> Params:
        return {f"lr.{group(name)}": p.new_full((steps,), lr) for name, p in params.items()}

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        row = min(step, steps - 1)
        return {n: -constants[f"lr.{group(n)}"][row] * g for n, g in grads.items()}, state

    return InnerOptimizer(constants, no_state, update)


def adam(
    lr: float, *, beta1: float = 0.0, beta2: float = 0.999, eps: float = 1e-8
) -> InnerOptimizer:
    """Return a differentiable Adam optimizer with bias correction (Kingma & Ba 2015, alg. 1).

    The moments are zero at the start of every task.

    Args:
        lr: Step size.
        beta1: Decay rate β₁ of the first moment. The default 0 disables
            momentum, as in Reptile (Nichol et al. 2018), because momentum is
            harmful over a few steps.
        beta2: Decay rate β₂ of the second moment.
        eps: Constant added to the denominator.

    Raises:
        ValueError: If `lr` is negative, or `beta1` or `beta2` is not in [0, 1).
    """
    at_least(0).check("lr", lr)
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"beta1 and beta2 must be at least 0 and below 1, got {beta1}, {beta2}")

    def state(params: Params) -> tuple[Params, Params]:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return zeros, zeros

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        first, second = state
        m = {n: beta1 * first[n] + (1 - beta1) * g for n, g in grads.items()}
        v = {n: beta2 * second[n] + (1 - beta2) * g * g for n, g in grads.items()}
        rate, correction = lr / (1 - beta1 ** (step + 1)), 1 - beta2 ** (step + 1)
        updates = {n: -rate * m[n] / (_root(v[n] / correction) + eps) for n in grads}
        return updates, (m, v)

    return InnerOptimizer(no_constants, state, update)


def clip_norm(limit: float) -> InnerOptimizer:
    """Return a transformation that clips the gradient to the global norm `limit`.

    Put the transformation before an optimizer: ``chain(clip_norm(1.0), sgd(0.1))``.

    Args:
        limit: Maximum Euclidean norm of the gradient over all parameters of one task.

    Raises:
        ValueError: If `limit` is not greater than 0.
    """
    greater_than(0).check("limit", limit)

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        squares = torch.stack([(g * g).sum() for g in grads.values()]).sum()
        # The derivative of the norm is 0 where the gradient is 0.
        factor = limit / _root(squares).clamp(min=limit)
        return {name: -factor * g for name, g in grads.items()}, state

    return InnerOptimizer(no_constants, no_state, update)


def chain(*optimizers: InnerOptimizer) -> InnerOptimizer:
    """Return an inner optimizer that applies several optimizers in sequence.

    The negative update of each optimizer is the gradient for the next
    optimizer. With step size 1, an optimizer therefore passes on the
    transformed gradient, as in ``chain(meta_curvature(1.0), lslr(0.1,
    steps=5))``. The names of learned hyperparameters start with the
    optimizer's position in the chain: ``0.``, ``1.``, ...

    Args:
        *optimizers: The optimizers. The first one receives the gradient of the loss.

    Raises:
        ValueError: If no optimizer is given.
    """
    if not optimizers:
        raise ValueError("chain requires at least one optimizer, got none")

    def constants(params: Params) -> Params:
        return {
            f"{place}.{name}": value
            for place, optimizer in enumerate(optimizers)
            for name, value in optimizer.constants(params).items()
        }

    def state(params: Params) -> tuple[Any, ...]:
        return tuple(optimizer.state(params) for optimizer in optimizers)

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        states, updates = [], grads
        for place, (optimizer, before) in enumerate(zip(optimizers, state, strict=True)):
            given = updates if place == 0 else {name: -u for name, u in updates.items()}
            prefix = f"{place}."
            own = {n.removeprefix(prefix): p for n, p in constants.items() if n.startswith(prefix)}
            updates, after = optimizer.update(own, given, before, step)
            states.append(after)
        return updates, tuple(states)

    return InnerOptimizer(constants, state, update)


def _root(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the square root of x, with derivative 0 instead of infinity at x = 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def meta_curvature(lr: float, *, max_size: int | None = None) -> InnerOptimizer:
    """Return a Meta-Curvature optimizer, θ' = θ − α MC(∇L) (Park & Oliva 2019, eq. 6).

    MC multiplies each weight gradient by a learned square matrix along each
    mode of the weight. For a gradient G of shape (out, in, *kernel), MC(G) =
    G ×₁ M_out ×₂ M_in ×₃ M_kernel. This equals the product of M_out ⊗ M_in ⊗
    M_kernel with vec(G), without forming the Kronecker product. Biases have
    one learned factor per element. All matrices are initialized to the
    identity and all factors to 1, so that the first meta-iteration equals a
    MAML iteration. All inner steps share the matrices and factors.

    Args:
        lr: Step size α, which is not learned.
        max_size: Maximum size of a mode with a learned matrix; larger modes
            keep the identity. For example, a head on 800 features would
            otherwise add a matrix with 640,000 elements. None sets no limit.

    Raises:
        ValueError: If `lr` is negative.
    """
    at_least(0).check("lr", lr)

    def constants(params: Params) -> Params:
        found: Params = {}
        for name, p in params.items():
            if p.ndim < 2:
                found[f"scale.{name}"] = torch.ones_like(p)
                continue
            for mode, size in _modes(p).items():
                if max_size is None or size <= max_size:
                    found[f"{mode}.{name}"] = torch.eye(size, dtype=p.dtype, device=p.device)
        return found

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        return {name: -lr * _precondition(constants, name, g) for name, g in grads.items()}, state

    return InnerOptimizer(constants, no_state, update)


def _modes(weight: Tensor) -> dict[str, int]:
    """Return a weight's mode sizes by name: ``out``, ``in`` and, for convolutions, ``kernel``."""
    kernel = {"kernel": weight[0, 0].numel()} if weight.ndim > 2 else {}
    return {"out": weight.shape[0], "in": weight.shape[1], **kernel}


def _precondition(constants: Params, name: str, grad: Tensor) -> Tensor:
    if grad.ndim < 2:
        return constants[f"scale.{name}"] * grad
    kernel, inputs = constants.get(f"kernel.{name}"), constants.get(f"in.{name}")
    if grad.ndim == 2:  # several times faster than batched products with (in, 1) matrices
        moved: Tensor = grad if inputs is None else grad @ inputs.T
    else:
        moved = grad.reshape(*grad.shape[:2], -1)
        moved = moved if kernel is None else moved @ kernel.T
        moved = moved if inputs is None else inputs @ moved
    if (matrix := constants.get(f"out.{name}")) is not None:
        moved = (matrix @ moved.flatten(1)).reshape(moved.shape)
    return moved.reshape(grad.shape)
