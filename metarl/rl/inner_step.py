"""The inner step of a meta-batch of episodes, and how much of it is signal."""

from typing import Any

import torch
from torch import Tensor

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.speed import chunks
from metarl.core.types import MetaParams, Params
from metarl.rl.episodes import Episodes, chunk_of


def inner_step(
    loop: InnerLoop, meta: MetaParams, params: Params, state: Any, batch: Episodes, index: int
) -> tuple[Params, Any, dict[str, Tensor]]:
    """Take one inner step on every task, in chunks that fit the cache.

    Args:
        loop: The inner loop.
        meta: Meta-parameters, without a task axis.
        params: Parameters of every task.
        state: State of the inner optimizer of every task.
        batch: The episodes that each task steps on.
        index: Number of the step, from 0.

    Returns:
        Parameters and state after the step, and of each task's gradient the norm (``inner``) and
        the :func:`agreement`.
    """

    def step(part: tuple[Params, Any, Episodes]) -> tuple[Params, Any, dict[str, Tensor]]:
        params, state, batch = part
        grads = loop.gradient(params, batch)
        about = {"inner": tree.norm(grads)} | agreement(loop, params, batch)
        return *loop.update(meta, params, grads, state, index), about

    parts, device = chunks.split((params, state, batch), chunk_of(batch)), batch.mask.device
    with torch.no_grad():
        done = chunks.parallel_map(lambda p: chunks.over_tasks(step, p), parts, device=device)
    joined: tuple[Params, Any, dict[str, Tensor]] = chunks.join(done)
    return joined


def agreement(loop: InnerLoop, params: Params, batch: Episodes) -> dict[str, Tensor]:
    """Compare the inner gradients of two halves of a task's episodes: their cosine.

    It says how much of an adaptation step is signal: halves that share nothing but noise have 0.
    """
    half = batch.mask.shape[1] // 2
    if half == 0:
        return {}
    cut = [slice(None, half), slice(half, None)]
    first, second = (
        loop.gradient(params, tree.map_leaves(lambda x, s=s: x[:, s], batch)) for s in cut
    )
    return {"agreement": tree.dot(first, second) / (tree.norm(first) * tree.norm(second))}
