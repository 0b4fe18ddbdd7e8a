"""Arithmetic on trees of tensors (parameters, meta-parameters, batches)."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree


Tree = TypeVar("Tree")


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree in a fixed order."""
    return cast(list[Tensor], pytree.tree_leaves(tree))


def map_leaves(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply `function` to each tensor of `tree` and the corresponding tensors of `others`."""
    return cast(Tree, pytree.tree_map(function, tree, *others))


def replace_leaves(tree: Tree, new_leaves: Any) -> Tree:
    """Return `tree` with new tensors, in the order of :func:`leaves`."""
    return cast(Tree, pytree.tree_unflatten(list(new_leaves), pytree.tree_structure(tree)))


def add(a: Tree, b: Tree, *, scale: float | Tensor = 1.0) -> Tree:
    """Return ``a + scale * b``."""
    return map_leaves(lambda x, y: x + scale * y, a, b)


def scale(tree: Tree, factor: float | Tensor) -> Tree:
    """Return ``factor * tree``."""
    return map_leaves(lambda x: x * factor, tree)


def widened_total(trees: list[Tree]) -> Tree:
    """Sum a list of trees in float64; the result does not depend on the order of the sum.

    Sums of a few float32 numbers are exact in float64, unless they differ by many orders of
    magnitude. Integers are summed as integers.
    """

    def add_up(first: Tensor, *others: Tensor) -> Tensor:
        kind = torch.float64 if first.is_floating_point() else first.dtype
        found = first.to(kind, copy=True)
        for x in others:
            found += x  # in place, without a float64 copy of every tree
        return found

    return map_leaves(add_up, *trees)


def dot(a: Any, b: Any) -> Float[Tensor, ""]:
    """Return the inner product of two trees."""
    return torch.stack([(x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True)]).sum()


def norm(tree: Any) -> Float[Tensor, ""]:
    """Return the Euclidean norm of a tree."""
    return dot(tree, tree).sqrt()


def stack(trees: list[Tree]) -> Tree:
    """Stack trees with the same structure along a new leading (task) axis."""
    return map_leaves(lambda *x: torch.stack(x), *trees)


def expand(tree: Tree, num_tasks: int) -> Tree:
    """Add a leading task axis to every tensor, as a view without copying."""
    return map_leaves(lambda x: x.expand(num_tasks, *x.shape), tree)


def ravel(tree: Tree) -> tuple[Float[Tensor, " size"], Callable[[Tensor], Tree]]:
    """Flatten a tree into a vector; also return the function from a vector back to a tree."""
    parts = leaves(tree)
    sizes = [x.numel() for x in parts]

    def unravel(vector: Tensor) -> Tree:
        pieces = torch.split(vector, sizes)
        return replace_leaves(tree, [p.view(x.shape) for p, x in zip(pieces, parts, strict=True)])

    return torch.cat([x.reshape(-1) for x in parts]), unravel


def detach(tree: Tree) -> Tree:
    """Detach every tensor of a tree from its graph."""
    return map_leaves(lambda x: x.detach(), tree)
