"""Inner optimizers: gradient transformations whose constants may be meta-learned.

Every optimizer is a value of three pure functions. `update` returns what is *added* to the
parameters, so that optimizers compose (:func:`chain`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

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


def no_constants(_: Params) -> Params:
    """Learn nothing."""
    return {}


def no_state(_: Params) -> tuple[()]:
    """Remember nothing."""
    return ()


def sgd(lr: float | Sequence[float]) -> InnerOptimizer:
    """Gradient descent, θ' = θ − α ∇L (Finn et al. 2017, eq. 1).

    Args:
        lr: α, or one rate per inner step; steps beyond the last rate use the last.
    """
    rates = tuple(lr) if isinstance(lr, Sequence) else (lr,)

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        rate = rates[min(step, len(rates) - 1)]
        return {name: -rate * g for name, g in grads.items()}, state

    return InnerOptimizer(no_constants, no_state, update)


def meta_sgd(lr: float) -> InnerOptimizer:
    """Gradient descent with one learned rate per scalar parameter (Li et al. 2017, eq. 3).

    Args:
        lr: The value at which every rate starts; equal to :func:`sgd` until the rates are learned.
    """

    def constants(params: Params) -> Params:
        return {f"lr.{name}": torch.full_like(p, lr) for name, p in params.items()}

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        return {name: -constants[f"lr.{name}"] * g for name, g in grads.items()}, state

    return InnerOptimizer(constants, no_state, update)


def lslr(
    lr: float, *, steps: int, group: Callable[[str], str] = lambda name: name
) -> InnerOptimizer:
    """Gradient descent with one learned rate per tensor and step (MAML++, Antoniou et al. 2019).

    Args:
        lr: The value at which every rate starts; equal to :func:`sgd` until the rates are learned.
        steps: Rates of each tensor; steps beyond the last use the last.
        group: Maps the name of a parameter to the name of the group that shares its rates, such as
            a layer; by default every tensor has its own.
    """

    def constants(params: Params) -> Params:
        return {f"lr.{group(name)}": p.new_full((steps,), lr) for name, p in params.items()}

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        row = min(step, steps - 1)
        return {n: -constants[f"lr.{group(n)}"][row] * g for n, g in grads.items()}, state

    return InnerOptimizer(constants, no_state, update)


def adam(
    lr: float, *, beta1: float = 0.0, beta2: float = 0.999, eps: float = 1e-8
) -> InnerOptimizer:
    """Adam with bias correction (Kingma & Ba 2015, alg. 1), differentiable.

    Its moments start fresh for every task. β₁ is 0 by default, as in Reptile (Nichol et al. 2018):
    momentum hurts over a few steps.
    """

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
    """Scale the gradient down to a global norm of `limit` where it is longer, for :func:`chain`."""

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        squares = torch.stack([(g * g).sum() for g in grads.values()]).sum()
        # Where it is 0, so is its root's derivative.
        factor = limit / _root(squares).clamp(min=limit)
        return {name: -factor * g for name, g in grads.items()}, state

    return InnerOptimizer(no_constants, no_state, update)


def chain(*optimizers: InnerOptimizer) -> InnerOptimizer:
    """Compose inner optimizers: each takes the step of the one before it for its gradient.

    What an optimizer subtracts is the gradient of the next, so a rate of 1 leaves a gradient as it
    is: ``chain(meta_curvature(1.0), lslr(0.1, steps=5))``. Learned constants are prefixed by the
    place in the chain, ``0.``, ``1.``, ...
    """

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
    """Take the square root, with derivative 0 at 0, where a gradient vanished, and not infinity."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def meta_curvature(lr: float, *, max_size: int | None = None) -> InnerOptimizer:
    """Gradient descent with a learned curvature, θ' = θ − α MC(∇L) (Park & Oliva 2019, eq. 6).

    The gradient of a weight is multiplied along each of its modes by a learned square matrix: with
    G of shape (out, in, *kernel), MC(G) = G ×₁ M_out ×₂ M_in ×₃ M_kernel, which is the product of
    M_out ⊗ M_in ⊗ M_kernel with vec(G) and never forms it. Vectors (biases) have one learned factor
    per element. All start as identities, so the first meta-iteration is MAML's. The same matrices
    serve every step.

    Args:
        lr: α, which is not learned.
        max_size: Modes wider than this keep the identity: a head on 800 features would have 640,000
            numbers in its factor alone.
    """

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
    """Return the modes of a weight and their sizes; all axes of a kernel are one mode."""
    kernel = {"kernel": weight[0, 0].numel()} if weight.ndim > 2 else {}
    return {"out": weight.shape[0], "in": weight.shape[1], **kernel}


def _precondition(constants: Params, name: str, grad: Tensor) -> Tensor:
    if grad.ndim < 2:
        return constants[f"scale.{name}"] * grad
    kernel, inputs = constants.get(f"kernel.{name}"), constants.get(f"in.{name}")
    if grad.ndim == 2:  # a plain product is several times faster than one of (in, 1) matrices
        moved: Tensor = grad if inputs is None else grad @ inputs.T
    else:
        moved = grad.reshape(*grad.shape[:2], -1)
        moved = moved if kernel is None else moved @ kernel.T
        moved = moved if inputs is None else inputs @ moved
    if (matrix := constants.get(f"out.{name}")) is not None:
        moved = (matrix @ moved.flatten(1)).reshape(moved.shape)
    return moved.reshape(grad.shape)
