"""Losses of one task on a batch ``(inputs, targets)`` or ``(inputs, targets, reference)``.

Losses are means over the examples and, in regression, over the outputs. The classification code of
Finn et al. 2017 *sums* the loss over the classes of a task instead. To use an inner learning rate
from a paper with that code, multiply it by the number of ways: a rate of 0.4 corresponds to 2.0
here in 5-way tasks.
"""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from metarl.core import Apply, Batch, Metrics, Params


BatchLoss: TypeAlias = Callable[[Params, Batch], tuple[Float[Tensor, ""], Metrics]]
"""``(params, batch) -> (loss, metrics)`` of one task, for ``query_loss(..., has_aux=True)``."""

Criterion: TypeAlias = Callable[[Tensor, Tensor], tuple[Float[Tensor, ""], Metrics]]
"""``(predictions, targets) -> (loss, metrics)``, such as :func:`cross_entropy`."""


def squared_error(
    predictions: Float[Tensor, "examples outputs"], targets: Float[Tensor, "examples outputs"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean squared error over examples and outputs, and no metrics.

    Example::

        >>> from metarl.supervised import squared_error
        >>> squared_error(torch.zeros(10, 1), torch.ones(10, 1))
        (tensor(1.), {})
    """
    return ((predictions - targets) ** 2).mean(), {}


def cross_entropy(
    logits: Float[Tensor, "examples ways"], targets: Float[Tensor, "examples ways"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean cross-entropy, and the accuracy as a metric.

    Args:
        logits: Logits.
        targets: One-hot targets.

    Example::

        >>> from metarl.supervised import cross_entropy
        >>> loss, metrics = cross_entropy(torch.rand(10, 5), torch.eye(5).repeat(2, 1))
    """
    loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    correct = logits.argmax(-1) == targets.argmax(-1)
    return loss, {"accuracy": correct.to(logits.dtype).mean()}


def present_cross_entropy(
    logits: Float[Tensor, "examples ways"], targets: Float[Tensor, "examples ways"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the :func:`cross_entropy` over the classes of one data set within a shared head.

    With one head for several data sets, each data set has a softmax over its own classes.

    Args:
        logits: Logits of the classes of all data sets.
        targets: One-hot targets, with −1 for classes of other data sets.

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
    """Combine a model and a criterion into a loss function of one batch.

    Args:
        apply: Model ``(params, inputs, *reference) -> predictions``.
        criterion: Criterion ``(predictions, targets) -> (loss, metrics)``.

    Returns:
        A function ``(params, batch) -> (loss, metrics)``.

    Example::

        >>> from metarl.core import functional
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import evaluate_batch, squared_error
        >>> apply, params = functional(mlp((1, 40, 1)))
        >>> batch_loss = evaluate_batch(apply, squared_error)
        >>> loss, metrics = batch_loss(params, (torch.rand(10, 1), torch.rand(10, 1)))
    """

    def evaluate(params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        inputs, targets, *reference = batch
        return criterion(apply(params, inputs, *reference), targets)

    return evaluate


def loss_of(batch_loss: BatchLoss) -> Callable[[Params, Batch], Float[Tensor, ""]]:
    """Return a loss function without metrics, as :class:`~metarl.core.InnerLoop` expects it.

    Args:
        batch_loss: A function ``(params, batch) -> (loss, metrics)``.

    Returns:
        A function ``(params, batch) -> loss``.

    Example::

        >>> from metarl.core import functional
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import evaluate_batch, loss_of, squared_error
        >>> apply, params = functional(mlp((1, 40, 1)))
        >>> loss = loss_of(evaluate_batch(apply, squared_error))
    """
    return lambda params, batch: batch_loss(params, batch)[0]
