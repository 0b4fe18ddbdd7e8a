"""How well a classifier of sentences adapts to the fixed support samples of test tasks."""

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


BLOCK = 64  # sentences encoded at a time: those of like length together, so that few are padded

Prepare = Callable[[Batch, int], tuple[Batch, ...]]
"""``(support set, index of the sample) -> what the inner steps take``, with a task axis of 1."""


def encoded(model: Model, meta: MetaParams, sentences: Sentences) -> list[Batch]:
    """Compute the lower layers once for all sentences, in blocks of similar length.

    Returns:
        Blocks of (inputs, targets).
    """
    lower = lower_layers(model.apply.module)
    order = sentences.inputs["attention_mask"].sum(-1).argsort()

    def encode(rows: Tensor) -> Batch:
        inputs, targets = sentences.batch(rows)
        return lower(meta.model, inputs), targets

    with torch.no_grad():
        blocks = list(torch.split(order, BLOCK))
        return chunks.parallel_map(encode, blocks, device=sentences.labels.device)


def accuracies(
    model: Model,
    loop: InnerLoop,
    meta: MetaParams,
    samples: list[Sentences],
    evaluation: list[Batch],
    prepare: Prepare,
) -> Float[Tensor, "samples ends"]:
    """Adapt to each support sample; return the accuracy before and after the inner steps.

    Args:
        model: The classifier.
        loop: How it adapts.
        meta: Meta-parameters.
        samples: Support samples of one task, all with its classes in one order.
        evaluation: The sentences to evaluate on, from :func:`encoded`.
        prepare: Makes the inner steps' batches of a support set.
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
    """Return the rows to evaluate on, of `count`: all, or `limit` of them drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:limit].sort().values
