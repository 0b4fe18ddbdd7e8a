"""Class labels of support sets, and tables of predictions."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from metarl.util import Table


Label: TypeAlias = str | int


def encode(labels: Any, count: int, ways: int | None) -> tuple[tuple[Label, ...], Tensor]:
    """Return the sorted classes and the one-hot targets of labeled examples.

    Args:
        labels: One integer or string per example.
        count: Number of examples.
        ways: Required number of classes; None if any number is supported.

    Returns:
        ``(classes, targets)``: the distinct labels in sorted order, and one-hot
        targets of shape (count, classes) in the same order.

    Raises:
        ValueError: If there is not one label per example, the labels are not
            all integers or all strings, or the number of classes is not
            supported.
    """
    found, shape = np.asarray(_values(labels)), np.shape(labels)
    if shape != (count,):
        raise ValueError(f"`labels` must have shape ({count},), one label per example, got {shape}")
    classes, index = np.unique(found, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"`labels` must contain at least two classes, got {classes.tolist()}")
    if ways not in (None, len(classes)):
        raise ValueError(
            f"the run has a learned head for {ways} classes, got {len(classes)} classes. Use "
            "start=prototypes or start=zero, which support any number of classes"
        )
    return tuple(classes.tolist()), torch.eye(len(classes))[torch.from_numpy(index)]


def _values(labels: Any) -> list[Label]:
    """Return labels as Python integers or strings; arrays of objects are accepted."""
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise ValueError(f"`labels` must be a list with one label per example, got {labels!r:.40}")
    if getattr(labels, "ndim", 1) != 1:
        return []
    values: list[Any] = [x.item() if isinstance(x, np.generic | Tensor) else x for x in labels]
    kinds = {type(x): x for x in reversed(values)}
    if len(kinds) > 1 or not kinds.keys() <= {str, int}:
        got = " and ".join(f"{x!r:.40} ({kind.__name__})" for kind, x in kinds.items())
        raise ValueError(f"`labels` must be all integers or all strings, got {got}")
    return values


def decode(
    classes: Sequence[Label], probabilities: Float[NDArray[np.float32], "n ways"]
) -> NDArray[Any]:
    """Return the most probable label of every example, of shape (n,)."""
    return np.asarray(np.asarray(classes)[probabilities.argmax(-1)])


def table(
    what: str,
    names: Sequence[str],
    classes: Sequence[Label],
    probabilities: Float[NDArray[np.float32], "n ways"],
) -> Table:
    """Return a table with the predicted class and its probability for every example.

    Args:
        what: Title of the first column, such as ``"file"``.
        names: Name of every example.
        classes: The class labels, in the order of the columns of `probabilities`.
        probabilities: Class probabilities of shape (n, ways).
    """
    labels, best = decode(classes, probabilities), probabilities.max(-1)
    rows = [[n, c, f"{p:.4f}"] for n, c, p in zip(names, labels, best, strict=True)]
    title = f"{len(rows)} predictions, {len(classes)} classes"
    return Table(title, [what, "class", "probability"], rows)
