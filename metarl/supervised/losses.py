"""Losses of one task. A batch is ``(inputs, targets)``, or ``(inputs, targets, reference)``.

Losses are means, over the examples and, in regression, over the outputs. Finn et al.'s code for
classification *sums* over the classes of a task instead, so the inner rates printed in its
literature are those of this package divided by the number of ways: 0.4 there is 2.0 here, 5-way.
"""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from metarl.core import Apply, Batch, Metrics, Params


BatchLoss: TypeAlias = Callable[[Params, Batch], tuple[Float[Tensor, ""], Metrics]]
"""The loss of one task and its metrics: ``query_loss(batch_loss, has_aux=True)``."""

Criterion: TypeAlias = Callable[[Tensor, Tensor], tuple[Float[Tensor, ""], Metrics]]
"""``(predictions, targets) -> (loss, metrics)``."""


def squared_error(
    predictions: Float[Tensor, "examples outputs"], targets: Float[Tensor, "examples outputs"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean squared error."""
    return ((predictions - targets) ** 2).mean(), {}


def cross_entropy(
    logits: Float[Tensor, "examples ways"], targets: Float[Tensor, "examples ways"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean cross-entropy against one-hot targets, and the accuracy."""
    loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    correct = logits.argmax(-1) == targets.argmax(-1)
    return loss, {"accuracy": correct.to(logits.dtype).mean()}


def present_cross_entropy(
    logits: Float[Tensor, "examples ways"], targets: Float[Tensor, "examples ways"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return :func:`cross_entropy` among the classes that are there: absent ones have targets −1.

    It is how one head serves several data sets, each with a softmax over its own classes.
    """
    absent = targets < 0
    return cross_entropy(logits.masked_fill(absent, -1e9), targets.masked_fill(absent, 0.0))


def evaluate_batch(apply: Apply, criterion: Criterion) -> BatchLoss:
    """Build the function that compares the predictions of a model with the targets of a batch.

    Args:
        apply: ``(params, inputs, *reference) -> predictions``.
        criterion: ``(predictions, targets) -> (loss, metrics)``.

    Returns:
        ``(params, batch) -> (loss, metrics)``.
    """

    def evaluate(params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        inputs, targets, *reference = batch
        return criterion(apply(params, inputs, *reference), targets)

    return evaluate


def loss_of(batch_loss: BatchLoss) -> Callable[[Params, Batch], Float[Tensor, ""]]:
    """Return the loss without the metrics, for the inner steps."""
    return lambda params, batch: batch_loss(params, batch)[0]
