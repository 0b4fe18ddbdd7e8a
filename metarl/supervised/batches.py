"""Minibatches of support sets, and reference batches for normalization layers."""

import math

import torch

from metarl.core import Batch, Task, tree, uniform


def minibatches(
    batch: Batch, size: int, *, steps: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Sample one minibatch per inner step from the support set of each task.

    Examples are sampled without replacement. When all examples have been
    used, the support set is reshuffled; a minibatch may span two passes. This
    is the sampling in Reptile's code (Nichol et al. 2018).

    Args:
        batch: Support sets with leading axes (task, example).
        size: Number of examples per minibatch.
        steps: Number of inner steps.
        generator: Random generator for the order of the examples.

    Returns:
        One minibatch per step with leading axes (task, `size`). If the
        support sets have at most `size` examples, the tuple contains only
        `batch`.

    Example::

        >>> from metarl.supervised import minibatches
        >>> support = (torch.rand(4, 50, 1), torch.rand(4, 50, 1))
        >>> batches = minibatches(support, 10, steps=5, generator=torch.Generator())
        >>> len(batches), batches[0][0].shape
        (5, torch.Size([4, 10, 1]))
    """
    tasks, examples = tree.leaves(batch)[0].shape[:2]
    if examples <= size:
        return (batch,)
    chance = uniform(tasks, math.ceil(size * steps / examples), examples, generator=generator)
    order = chance.argsort(-1).flatten(1)[:, : size * steps].to(tree.leaves(batch)[0].device)
    each = torch.arange(tasks, device=order.device)[:, None]
    return tuple(
        tree.map_leaves(lambda x, part=part: x[each, part], batch)
        for part in torch.split(order, size, 1)
    )


def with_reference(tasks: Task) -> Task:
    """Append the support inputs to the query batch as reference inputs for normalization layers.

    For the query set, batch normalization then uses the statistics of the
    support set, so that the evaluation is not transductive.

    Args:
        tasks: A meta-batch with one support batch.

    Returns:
        The same meta-batch with the query batch ``(inputs, targets, reference)``.

    Example::

        >>> from metarl.supervised import FewShot, with_reference
        >>> images = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
        >>> pool = FewShot(images, (20,) * 5, num_ways=5, num_shots=1, num_queries=15)
        >>> inputs, targets, reference = with_reference(pool.sample(4, torch.Generator())).query
        >>> reference.shape
        torch.Size([4, 5, 1, 28, 28])
    """
    return tasks._replace(query=(*tasks.query, tasks.support[0][0]))
