"""Work on a meta-batch in chunks of tasks: the unit of cache, of memory and of parallelism.

A chunk small enough for the processor's cache runs several times faster than the whole batch at
once. On the CPU every chunk runs on one thread, with single-threaded operators, and the chunks run
side by side: no synchronization inside an operator, and results that cannot depend on how many
threads there are, because neither the chunks nor the order in which they are summed do.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import torch
from torch.func import vmap
from torch.utils import _pytree as pytree

from metarl.core import Tree, tree


Result = TypeVar("Result")

EXAMPLES_PER_CHUNK = 2000  # measured on 2 cores, two layers of 64 to 100 units
CHUNKS = 8


_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)


@contextmanager
def one_thread_per_operator() -> Iterator[int]:
    """Run operators on one thread each; yield how many threads were allowed before.

    A matrix product split over threads may sum in another order. Inside this context it does not,
    which is what makes a run bit-identical for every number of threads. Contexts nest: the inner
    ones yield what the outermost was allowed.
    """
    before = torch.get_num_threads()
    allowed = _allowed.get() or before
    token = _allowed.set(allowed)
    torch.set_num_threads(1)
    try:
        yield allowed
    finally:
        torch.set_num_threads(before)
        _allowed.reset(token)


@cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Return the process's pool; keyed by process, since threads do not survive a fork."""
    return ThreadPoolExecutor(
        num_threads, "metarl-chunk", initializer=torch.set_num_threads, initargs=(1,)
    )


def parallel_map(
    function: Callable[[Any], Result], items: list[Any], *, device: torch.device
) -> list[Result]:
    """Apply `function` to every item, side by side on the CPU, in order on an accelerator.

    Autograd's mode is the caller's in every thread. A pool of one thread is used as any other: the
    number of threads decides when a chunk runs and never what it computes. Large items begin first,
    so that no thread is left alone with one at the end.
    """
    if device.type != "cpu" or len(items) == 1:
        with one_thread_per_operator():
            return [function(item) for item in items]
    grad_enabled = torch.is_grad_enabled()

    def call(item: Any) -> Result:
        with torch.set_grad_enabled(grad_enabled):
            return function(item)

    sizes = [
        sum(x.numel() for x in pytree.tree_leaves(item) if isinstance(x, torch.Tensor))
        for item in items
    ]
    order = sorted(range(len(items)), key=lambda index: -sizes[index])
    with one_thread_per_operator() as num_threads:
        done = _pool(num_threads, os.getpid()).map(call, [items[index] for index in order])
        found = dict(zip(order, done, strict=True))
    return [found[index] for index in range(len(items))]


def split(tasks: Tree, chunk_size: int | None) -> list[Tree]:
    """Cut a tree along its leading (task) axis into chunks of at most `chunk_size` tasks.

    Raises:
        ValueError: If the tensors disagree on the number of tasks.
    """
    parts = tree.leaves(tasks)
    sizes = {x.shape[0] for x in parts}
    if len(sizes) != 1:
        raise ValueError(f"every tensor needs the same number of tasks in front, got {sizes}")
    size = chunk_size or sizes.pop()
    columns = [torch.split(x, size) for x in parts]
    return [tree.replace_leaves(tasks, column) for column in zip(*columns, strict=True)]


def join(chunks: list[Tree]) -> Tree:
    """Put chunks back together along the task axis: the inverse of :func:`split`."""
    return tree.map_leaves(lambda *x: torch.cat(x), *chunks)


def over_tasks(function: Callable[[Any], Any], tasks: Any) -> Any:
    """Apply a function of one task to every task of a chunk: ``vmap``, or a plain call for one.

    The plain call has a third of the overhead, and its matrix products stay row-major through
    second derivatives, where batched ones do not.
    """
    if tree.leaves(tasks)[0].shape[0] > 1:
        return vmap(function)(tasks)
    # squeeze, not x[0]: its derivative is a view and not a copy into zeros.
    result = function(tree.map_leaves(lambda x: x.squeeze(0), tasks))
    return tree.map_leaves(lambda x: x.unsqueeze(0), result)


def map_tasks(function: Callable[[Any], Result], tasks: Any, chunk_size: int | None) -> Result:
    """Apply a function of one task to a meta-batch, chunk by chunk.

    Args:
        function: From a task to a tree of tensors; with a leading task axis, these are the result.
        tasks: A tree whose tensors have a leading task axis.
        chunk_size: See :func:`split`.
    """
    parts, device = split(tasks, chunk_size), tree.leaves(tasks)[0].device
    done = parallel_map(lambda part: over_tasks(function, part), parts, device=device)
    joined: Result = join(done)
    return joined


def cache_sized(examples_per_task: int, num_tasks: int, device: torch.device) -> int | None:
    """Return how many tasks make a chunk that stays in the cache; ``None`` (all) off the CPU.

    A function of the work alone and never of the machine: chunks decide the order in which tasks
    are summed, so results would otherwise differ between machines. A meta-batch has eight chunks
    at least, if it has as many tasks, for threads and processes to share.
    """
    if device.type != "cpu":
        return None
    fitting = EXAMPLES_PER_CHUNK // max(1, examples_per_task)
    return max(1, min(fitting, -(-num_tasks // CHUNKS)))
