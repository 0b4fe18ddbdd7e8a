"""One inner step for every task in a meta-batch, with statistics of the inner gradients."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from metarl.core import InnerLoop, MetaParams, Params, tree
from metarl.core.speed import Mode, chunks, program
from metarl.rl.episodes import Episodes, chunk_of


def inner_step(
    loop: InnerLoop,
    meta: MetaParams,
    params: Params,
    state: Any,
    batch: Episodes,
    index: int,
    *,
    mode: Mode = "traced",
) -> tuple[Params, Any, dict[str, Tensor]]:
    """Take one inner step for every task, in chunks of tasks that fit into the CPU cache.

    Args:
        loop: The inner loop.
        meta: The meta-parameters, without a task axis.
        params: Parameters with a leading task axis.
        state: State of the inner optimizer, with a leading task axis.
        batch: The support episodes of this step.
        index: Index of the step, starting at 0.
        mode: ``"traced"`` traces the step once per chunk shape; ``"eager"`` runs
            the step without tracing.

    Returns:
        The parameters and the state after the step, and metrics of each task's
        inner gradient: the norm under the key ``inner``, and the result of
        :func:`agreement`.
    """
    step = _chunk_step(loop, index, mode)
    with torch.no_grad():
        parts = chunks.split((params, state, batch), chunk_of(batch))
        done = chunks.parallel_map(lambda part: step(meta, part), parts, device=batch.mask.device)
    joined: tuple[Params, Any, dict[str, Tensor]] = chunks.join(done)
    return joined


@lru_cache(maxsize=16)  # a traced program belongs to one loop and one step
def _chunk_step(loop: InnerLoop, index: int, mode: Mode) -> Callable[[MetaParams, Any], Any]:
    """Return a function that takes inner step `index` for a chunk of tasks, traced or eager."""

    def step(
        meta: MetaParams, task: tuple[Params, Any, Episodes]
    ) -> tuple[Params, Any, dict[str, Tensor]]:
        params, state, batch = task
        grads = loop.gradient(params, batch)
        about = {"inner": tree.norm(grads)} | agreement(loop, params, batch)
        return *loop.update(meta, params, grads, state, index), about

    return program(lambda meta, part: chunks.over_tasks(partial(step, meta), part), mode)


def agreement(loop: InnerLoop, params: Params, batch: Episodes) -> dict[str, Tensor]:
    """Return the cosine similarity between the inner gradients of two halves of a task's episodes.

    The similarity is near 1 if the inner gradient is mostly signal, and near
    0 if the inner gradient is mostly noise.

    Args:
        loop: The inner loop.
        params: Parameters before the inner step, without a task axis.
        batch: The episodes of one task, which are split into two halves.

    Returns:
        The similarity under the key ``agreement``; an empty dictionary for a single episode.
    """
    half = batch.mask.shape[1] // 2
    if half == 0:
        return {}
    cut = [slice(None, half), slice(half, None)]
    first, second = (
        loop.gradient(params, tree.map_leaves(lambda x, s=s: x[:, s], batch)) for s in cut
    )
    return {"agreement": tree.dot(first, second) / (tree.norm(first) * tree.norm(second))}
