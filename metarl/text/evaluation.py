"""How well a classifier of sentences adapts to the fixed support samples of test tasks."""

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.speed import chunks
from metarl.core.types import Batch, MetaParams
from metarl.supervised.model import Model
from metarl.text.leopard import TextClassifier, lower_layers
from metarl.text.tasks import Sentences


BLOCK = 64  # sentences encoded at a time: those of like length together, so that few are padded

Prepare = Callable[[Batch, int], tuple[Batch, ...]]
"""``(support set, index of the sample) -> what the inner steps take``, with a task axis of 1."""


def encoded(model: Model, meta: MetaParams, sentences: Sentences) -> list[tuple[Tensor, Batch]]:
    """Compute the lower layers once for all sentences, which are those of like length together.

    Returns:
        Blocks of (rows, (inputs, targets)).
    """
    lower = lower_layers(_classifier(model))
    order = sentences.inputs["attention_mask"].sum(-1).argsort()
    blocks = list(torch.split(order, BLOCK))

    def encode(rows: Tensor) -> tuple[Tensor, Batch]:
        inputs, targets = sentences.batch(rows)
        return rows, (lower(meta.model, inputs), targets)

    with torch.no_grad():
        return chunks.parallel_map(encode, blocks, device=sentences.labels.device)


def support_of(model: Model, meta: MetaParams, sentences: Sentences) -> Batch:
    """Return all sentences as one support set, the lower layers computed; task axis of 1."""
    rows = sentences.labels.argsort(stable=True)
    inputs, targets = sentences.batch(rows)
    with torch.no_grad():
        inputs = lower_layers(_classifier(model))(meta.model, inputs)
    return tree.map_leaves(lambda x: x[None], (inputs, targets))


def accuracies(
    model: Model,
    loop: InnerLoop,
    meta: MetaParams,
    samples: list[Sentences],
    evaluation: list[tuple[Tensor, Batch]],
    prepare: Prepare,
) -> Float[Tensor, "samples ends"]:
    """Adapt to each support sample; return the accuracy before and after the inner steps.

    Args:
        model: The classifier.
        loop: How it adapts.
        meta: Meta-parameters.
        samples: Support samples of one task, all with its classes in one order.
        evaluation: What :func:`encoded` says about the sentences to judge by.
        prepare: Makes the inner steps' batches of a support set.
    """
    device = evaluation[0][0].device

    def one(index: int) -> Tensor:
        support = prepare(support_of(model, meta, samples[index]), index)
        batches = tree.map_leaves(lambda x: x.squeeze(0), support)
        steps = loop.steps(meta, batches)
        first = next(steps)
        last = deque(steps, maxlen=1) or [first]
        return torch.stack([_accuracy(model, params, evaluation) for params in (first, *last)])

    with torch.no_grad():
        return torch.stack(chunks.parallel_map(one, [*range(len(samples))], device=device))


def _accuracy(
    model: Model, params: dict[str, Tensor], evaluation: list[tuple[Tensor, Batch]]
) -> Float[Tensor, ""]:
    right = [
        model.apply(params, inputs).argmax(-1) == targets.argmax(-1)
        for _, (inputs, targets) in evaluation
    ]
    return torch.cat(right).double().mean()


def _classifier(model: Model) -> TextClassifier:
    module = model.apply.module
    assert isinstance(module, TextClassifier)
    return module


def chosen_rows(count: int, limit: int | None, seed: int) -> Int64[Tensor, " n"]:
    """Return which of `count` rows to judge by: all, or `limit` of them drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:limit].sort().values
