"""Losses for one task and one batch ``(inputs, targets)`` or ``(inputs, targets, reference)``.

Losses are means over the examples and, in regression, over the outputs. The
classification code of Finn et al. 2017 instead *sums* the loss over the
classes in a task. To use an inner learning rate from a paper that uses this
code, multiply the rate by the number of ways: in 5-way tasks, a published
rate of 0.4 corresponds to a rate of 2.0 here.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl.core import Apply, Batch, Metrics, Params


BatchLoss: TypeAlias = Callable[[Params, Batch], tuple[Float[Tensor, ""], Metrics]]
"""Loss for one task with metrics, ``(params, batch) -> (loss, metrics)``. Use
this type with ``metarl.core.query_loss(..., has_aux=True)``."""

Criterion: TypeAlias = Callable[[Tensor, Tensor], tuple[Float[Tensor, ""], Metrics]]
"""Loss function on predictions, ``(predictions, targets) -> (loss,
metrics)``, such as :func:`cross_entropy`."""


def squared_error(
    predictions: Float[Tensor, "examples outputs"], targets: Float[Tensor, "examples outputs"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean squared error over examples and outputs.

    Args:
        predictions: Outputs of the network.
        targets: Targets with the same shape.

    Returns:
        ``(loss, metrics)`` with empty metrics.

    Raises:
        ValueError: If the shapes differ.

    Example::

        >>> from metarl.supervised import squared_error
        >>> squared_error(torch.zeros(10, 1), torch.ones(10, 1))
        (tensor(1.), {})
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"the outputs of the network must have the shape of the targets, {(*targets.shape,)}, "
            f"got {(*predictions.shape,)}"
        )
    return ((predictions - targets) ** 2).mean(), {}


def cross_entropy(
    logits: Float[Tensor, "examples ways"],
    targets: Float[Tensor, "examples ways"] | Int[Tensor, " examples"],
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean cross-entropy and the accuracy.

    Args:
        logits: Unnormalized log-probabilities.
        targets: One-hot targets, or class indices from 0 to ways − 1.

    Returns:
        ``(loss, metrics)`` with the metric ``accuracy`` as a fraction from 0 to 1.

    Raises:
        ValueError: If the numbers of ways in `logits` and one-hot `targets` differ.

    Example::

        >>> from metarl.supervised import cross_entropy
        >>> cross_entropy(10 * torch.eye(5), torch.eye(5))[1]
        {'accuracy': tensor(1.)}
    """
    if targets.ndim < logits.ndim:  # F.one_hot does not support vmap
        ways = torch.arange(logits.shape[-1], device=logits.device)
        targets = (targets[..., None] == ways).to(logits.dtype)
    if logits.shape[-1] != targets.shape[-1]:
        raise ValueError(
            f"the network must have {targets.shape[-1]} outputs, one per class, got "
            f"{logits.shape[-1]}"
        )
    loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    correct = logits.argmax(-1) == targets.argmax(-1)
    return loss, {"accuracy": correct.to(logits.dtype).mean()}


def present_cross_entropy(
    logits: Float[Tensor, "examples ways"], targets: Float[Tensor, "examples ways"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean cross-entropy and the accuracy for a head that several data sets share.

    The softmax of each example includes only the classes of the data set that contains the example.

    Args:
        logits: Logits for the classes of all data sets.
        targets: One-hot targets, with −1 for the classes of other data sets.

    Returns:
        ``(loss, metrics)`` as in :func:`cross_entropy`.

    Example::

        >>> from metarl.supervised import present_cross_entropy
        >>> targets = torch.tensor([[0.0, 1.0, -1.0]])
        >>> loss, metrics = present_cross_entropy(torch.zeros(1, 3), targets)
        >>> round(loss.item(), 3)
        0.693
    """
    absent = targets < 0
    return cross_entropy(logits.masked_fill(absent, -1e9), targets.masked_fill(absent, 0.0))


def evaluate_batch(apply: Apply, criterion: Criterion) -> BatchLoss:
    """Combine a network and a criterion into a loss function for one batch.

    Args:
        apply: The network as a function ``(params, inputs, *reference) ->
            predictions``, from :func:`metarl.core.functional`.
        criterion: Function ``(predictions, targets) -> (loss, metrics)``,
            such as :func:`cross_entropy`.

    Returns:
        A function ``(params, batch) -> (loss, metrics)`` for a batch
        ``(inputs, targets)`` or ``(inputs, targets, reference)``.

    Example::

        >>> from metarl.core import functional
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import evaluate_batch, squared_error
        >>> apply, params = functional(mlp((1, 40, 1)))
        >>> batch_loss = evaluate_batch(apply, squared_error)
        >>> loss, metrics = batch_loss(params, (torch.rand(10, 1), torch.rand(10, 1)))
        >>> loss.shape, metrics
        (torch.Size([]), {})
    """

    def evaluate(params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        inputs, targets, *reference = batch
        return criterion(apply(params, inputs, *reference), targets)

    return evaluate


def loss_of(batch_loss: BatchLoss) -> Callable[[Params, Batch], Float[Tensor, ""]]:
    """Drop the metrics of a loss function, as required for the `loss` of an inner loop.

    Args:
        batch_loss: Function ``(params, batch) -> (loss, metrics)``, from :func:`evaluate_batch`.

    Returns:
        A function ``(params, batch) -> loss`` for :class:`~metarl.core.InnerLoop`.

    Example::

        >>> from metarl.core import functional
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import evaluate_batch, loss_of, squared_error
        >>> apply, params = functional(mlp((1, 40, 1)))
        >>> loss = loss_of(evaluate_batch(apply, squared_error))
        >>> loss(params, (torch.rand(10, 1), torch.rand(10, 1))).shape
        torch.Size([])
    """
    return lambda params, batch: batch_loss(params, batch)[0]
