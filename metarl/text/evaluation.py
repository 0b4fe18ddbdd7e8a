"""Evaluation of text classifiers on test tasks, with several support sets per task."""

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metarl.core import Batch, InnerLoop, MetaParams, Params, tree
from metarl.core.speed import chunks
from metarl.supervised import Model
from metarl.text.leopard import lower_layers
from metarl.text.tasks import Sentences


BLOCK = 64  # number of sentences encoded at a time, sorted by length to reduce padding

Prepare = Callable[[Batch, int], tuple[Batch, ...]]
"""Type of a function ``(support set, index) -> support batches``, which returns the batches for the
inner steps. The index numbers the support sets of a task from 0. The support set and the batches
have a leading task axis of size 1."""


def encoded(model: Model, meta: MetaParams, sentences: Sentences) -> list[Batch]:
    """Compute the output of the lower encoder layers for all sentences of a task.

    Args:
        model: Model whose network is a :class:`TextClassifier`.
        meta: Meta-parameters.
        sentences: Tokenized sentences.

    Returns:
        Batches ``(inputs, targets)``, each with at most 64 sentences of
        similar length. The inputs are hidden states, which ``model.apply``
        accepts instead of token ids.
    """
    lower = lower_layers(model.apply.module)
    order = sentences.inputs["attention_mask"].sum(-1).argsort()

    def encode(rows: Tensor) -> Batch:
        inputs, targets = sentences.batch(rows)
        return lower(meta.model, inputs), targets

    with torch.no_grad():
        return chunks.parallel_map(encode, [*torch.split(order, BLOCK)], device=order.device)


def accuracies(
    model: Model,
    loop: InnerLoop,
    meta: MetaParams,
    samples: list[Sentences],
    evaluation: list[Batch],
    prepare: Prepare,
) -> Float[Tensor, "samples ends"]:
    """Return the accuracy on the evaluation sentences of one task, for each sampled support set.

    Args:
        model: Model whose network is a :class:`TextClassifier`.
        loop: The inner loop.
        meta: Meta-parameters.
        samples: Tokenized support sets of the task. All support sets and the
            evaluation sentences must have the same order of classes.
        evaluation: Batches of evaluation sentences from :func:`encoded`.
        prepare: Function ``(support set, index) -> support batches`` that
            returns the batches for the inner steps, for example with
            :func:`support_batches`. The index is a position in `samples`.

    Returns:
        Fractions of correct predictions, shape (samples, 2). Column 0 is
        measured before the inner steps, column 1 after all inner steps.
    """
    lower = lower_layers(model.apply.module)

    def accuracy(params: Params) -> Tensor:
        right = [model.apply(params, x).argmax(-1) == y.argmax(-1) for x, y in evaluation]
        return torch.cat(right).double().mean()

    def one(index: int) -> Tensor:
        sample = samples[index]
        inputs, targets = sample.batch(sample.labels.argsort(stable=True))
        support = tree.map_leaves(lambda x: x[None], (lower(meta.model, inputs), targets))
        batches = tree.map_leaves(lambda x: x.squeeze(0), prepare(support, index))
        steps = loop.steps(meta, batches)
        first = next(steps)
        last = deque(steps, maxlen=1) or [first]
        return torch.stack([accuracy(params) for params in (first, *last)])

    device = samples[0].labels.device
    with torch.no_grad():
        return torch.stack(chunks.parallel_map(one, [*range(len(samples))], device=device))


def evaluation_rows(count: int, limit: int | None, seed: int) -> Int64[Tensor, " n"]:
    """Choose the rows of a task that are used for evaluation.

    Args:
        count: Number of evaluation rows of the task.
        limit: Maximum number of rows, sampled without replacement; all rows if ``None``.
        seed: Random seed for sampling.

    Returns:
        Sorted row indices.

    Example::

        >>> from metarl.text import evaluation_rows
        >>> len(evaluation_rows(1000, 100, seed=0))
        100
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:limit].sort().values
