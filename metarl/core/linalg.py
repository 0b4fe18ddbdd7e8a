"""Linear algebra on trees of tensors: conjugate gradients, and Jacobians as linear maps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from metarl.core import tree
from metarl.core.tree import Tree


Tensors: TypeAlias = Sequence[Tensor]

_grad = partial(torch.autograd.grad, retain_graph=True, allow_unused=True, materialize_grads=True)


def conjugate_gradient(
    product: Callable[[Tree], Tree], target: Tree, *, steps: int, tolerance: float = 1e-10
) -> tuple[Tree, Tree]:
    """Solve A x = b by conjugate gradients for a symmetric positive definite A.

    Args:
        product: Function x ↦ A x on trees.
        target: The tree b.
        steps: Number of iterations, each with one product. All products are
            computed even if x no longer changes, so that the function works
            under ``vmap``.
        tolerance: Relative tolerance: x no longer changes once ‖b − A x‖² is
            at most this fraction of ‖b‖². x also no longer changes after the
            first direction p with pᵀAp ≤ 0, where A is not positive definite
            (Steihaug 1983).

    Returns:
        ``(x, residual)`` with residual = b − A x. xᵀ A x = xᵀ (b − residual)
            therefore requires no further product with A.
    """
    x, residual = tree.scale(target, 0.0), target
    direction, squared = target, tree.dot(target, target)
    floor = tolerance * squared
    convex = torch.ones_like(squared, dtype=torch.bool)
    for _ in range(steps):
        image = product(direction)
        curvature = tree.dot(direction, image)
        convex = convex & (~(curvature <= 0) | (squared <= floor))  # NaN is kept, to be detected
        running = convex & (squared > floor)
        length = torch.where(running, squared / curvature, 0.0)
        x = tree.add(x, direction, scale=length)
        residual = tree.add(residual, image, scale=-length)
        previous, squared = squared, tree.dot(residual, residual)
        growth = torch.where(running, squared / previous, 0.0)
        direction = tree.add(residual, direction, scale=growth)
    return x, residual


class Jacobian(NamedTuple):
    """Functions that multiply vectors by a Jacobian J and by the transpose Jᵀ.

    Attributes:
        jvp: v ↦ J v, where v has the shapes of the inputs and J v has the shapes of the outputs.
        vjp: u ↦ Jᵀ u, where u has the shapes of the outputs and Jᵀ u has the shapes of the inputs.
    """

    jvp: Callable[[Tensors], Tensors]
    vjp: Callable[[Tensors], Tensors]


def linearize(outputs: Tensors, inputs: Tensors) -> Jacobian:
    """Return the Jacobian of an autograd graph as a linear map that can be applied many times.

    Jᵀu is linear in u, and the derivative of Jᵀu with respect to u gives
    products with J. Both products therefore reuse the stored activations.
    Forward-mode differentiation would repeat the forward pass in each
    product, and its levels are not thread-safe.

    Args:
        outputs: Tensors computed from `inputs`, whose autograd graph has not been freed.
        inputs: Tensors that require gradients. The derivative for an unused input is 0.
    """
    live = [i for i, y in enumerate(outputs) if y.requires_grad]
    moved = [outputs[i] for i in live]
    seeds = [torch.zeros_like(y, requires_grad=True) for y in moved]
    pulled = _grad(moved, inputs, seeds, create_graph=True)
    moving = [i for i, x in enumerate(pulled) if x.requires_grad]

    def jvp(tangents: Tensors) -> Tensors:
        images = [torch.zeros_like(y) for y in outputs]
        found = _grad([pulled[i] for i in moving], seeds, [tangents[i] for i in moving])
        for i, x in zip(live, found, strict=True):
            images[i] = x
        return images

    def vjp(cotangents: Tensors) -> Tensors:
        return _grad(moved, inputs, [cotangents[i] for i in live])

    return Jacobian(jvp, vjp)
