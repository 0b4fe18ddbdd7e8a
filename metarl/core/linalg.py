"""Linear algebra on trees: conjugate gradient, and the Jacobian of a graph as a linear map."""

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
    """Solve A x = b for a symmetric positive definite A that is known by its products.

    Args:
        product: x ↦ A x, on trees.
        target: b.
        steps: Number of products at most.
        tolerance: Once ‖b − A x‖² is below this part of ‖b‖², x no longer changes. That is a
            ``where`` and not a ``break``, so the function also works under ``vmap`` (going on would
            give NaN). Nor does x change from the first direction p on with pᵀAp ≤ 0, along which A
            is not positive definite after all (Steihaug 1983).

    Returns:
        ``(x, residual)`` with residual = b − A x, so that xᵀ A x costs no further product.
    """
    x, residual = tree.scale(target, 0.0), target
    direction, squared = target, tree.dot(target, target)
    floor = tolerance * squared
    convex = torch.ones_like(squared, dtype=torch.bool)
    for _ in range(steps):
        image = product(direction)
        curvature = tree.dot(direction, image)
        convex = convex & (~(curvature <= 0) | (squared <= floor))  # NaN goes on, and shows
        running = convex & (squared > floor)
        length = torch.where(running, squared / curvature, 0.0)
        x = tree.add(x, direction, scale=length)
        residual = tree.add(residual, image, scale=-length)
        previous, squared = squared, tree.dot(residual, residual)
        growth = torch.where(running, squared / previous, 0.0)
        direction = tree.add(residual, direction, scale=growth)
    return x, residual


class Jacobian(NamedTuple):
    """A Jacobian J. `jvp` takes tensors like the inputs, `vjp` tensors like the outputs."""

    jvp: Callable[[Tensors], Tensors]
    vjp: Callable[[Tensors], Tensors]


def linearize(outputs: Tensors, inputs: Tensors) -> Jacobian:
    """Turn the graph from `inputs` to `outputs` into a linear map that can be applied many times.

    ``u ↦ Jᵀu`` is linear in u, so differentiating it with respect to u gives J itself: both
    products read stored activations, and nothing is evaluated again. (Forward mode would repeat
    the forward pass in each product, and its levels are not safe across threads.)

    Args:
        outputs: Tensors computed from `inputs`, their graph still there.
        inputs: Tensors that require gradients. An input that no output depends on has derivative 0.
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
