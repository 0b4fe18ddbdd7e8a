"""Arithmetic on trees of tensors, such as parameters, meta-parameters and batches.

A tree is a nested structure of dictionaries, lists and tuples with tensors as leaves.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree


Tree = TypeVar("Tree")


def leaves(tree: Any) -> list[Tensor]:
    """Return all tensors in a tree, in an order that depends only on the tree's structure."""
    return cast(list[Tensor], pytree.tree_leaves(tree))


def map_leaves(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply a function to corresponding tensors in trees with the same structure.

    Args:
        function: Function of one tensor from `tree` and one tensor from each tree in `others`.
        tree: A tree of tensors.
        others: Trees with the same structure as `tree`.

    Returns:
        A tree with the structure of `tree` that contains the results of `function`.
    """
    return cast(Tree, pytree.tree_map(function, tree, *others))


def replace_leaves(tree: Tree, new_leaves: Any) -> Tree:
    """Return `tree` with all tensors replaced by `new_leaves`, in the order of :func:`leaves`."""
    return cast(Tree, pytree.tree_unflatten(list(new_leaves), pytree.tree_structure(tree)))


def add(a: Tree, b: Tree, *, scale: float | Tensor = 1.0) -> Tree:
    """Return ``a + scale * b`` for two trees with the same structure."""
    return map_leaves(lambda x, y: x + scale * y, a, b)


def scale(tree: Tree, factor: float | Tensor) -> Tree:
    """Return the tree with every tensor multiplied by `factor`."""
    return map_leaves(lambda x: x * factor, tree)


def widened_total(trees: list[Tree]) -> Tree:
    """Return the elementwise sum of a list of trees, computed in float64.

    The result does not depend on the order of the trees, because sums of a
    few float32 numbers are exact in float64 unless the numbers differ by many
    orders of magnitude. Integer tensors keep their dtype.
    """

    def add_up(first: Tensor, *others: Tensor) -> Tensor:
        kind = torch.float64 if first.is_floating_point() else first.dtype
        found = first.to(kind, copy=True)
        for x in others:
            found += x  # in place, without a float64 copy of every tree
        return found

    return map_leaves(add_up, *trees)


def dot(a: Any, b: Any) -> Float[Tensor, ""]:
    """Return the inner product of two trees, summed over all elements of all tensors."""
    return torch.stack([(x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True)]).sum()


def norm(tree: Any) -> Float[Tensor, ""]:
    """Return the Euclidean norm over all elements of all tensors in a tree."""
    return dot(tree, tree).sqrt()


def stack(trees: list[Tree]) -> Tree:
    """Stack trees with the same structure along a new leading (task) axis."""
    return map_leaves(lambda *x: torch.stack(x), *trees)


def expand(tree: Tree, num_tasks: int) -> Tree:
    """Add a leading task axis of size `num_tasks` to every tensor, as a view without copying."""
    return map_leaves(lambda x: x.expand(num_tasks, *x.shape), tree)


def ravel(tree: Tree) -> tuple[Float[Tensor, " size"], Callable[[Tensor], Tree]]:
    """Flatten a tree into a vector.

    Returns:
        The vector of shape (size,), and a function that converts a vector of
            this size back into a tree with the structure and shapes of
            `tree`.
    """
    parts = leaves(tree)
    sizes = [x.numel() for x in parts]

    def unravel(vector: Tensor) -> Tree:
        pieces = torch.split(vector, sizes)
        return replace_leaves(tree, [p.view(x.shape) for p, x in zip(pieces, parts, strict=True)])

    return torch.cat([x.reshape(-1) for x in parts]), unravel


def detach(tree: Tree) -> Tree:
    """Return the tree with every tensor detached from the autograd graph."""
    return map_leaves(lambda x: x.detach(), tree)
