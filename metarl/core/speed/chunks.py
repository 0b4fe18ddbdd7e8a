"""Processing of a meta-batch in chunks of tasks, to bound memory use and run chunks in parallel.

On the CPU, chunks that fit into the cache run several times faster than the
whole meta-batch. Each chunk runs on one thread with single-threaded
operators, and several chunks run in parallel. Operators then need no
synchronization. Results do not depend on the number of threads, because the
threads affect neither the chunks nor the order in which chunks are summed.
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

# Fastest chunk size, in examples, on a CPU with two cores: measured with networks that have two
# hidden layers of 64 to 100 units.
EXAMPLES_PER_CHUNK = 2000
CHUNKS = 8  # a chunk contains at most 1/8 of the tasks, rounded up

_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)


@contextmanager
def one_thread_per_operator() -> Iterator[int]:
    """Run torch operators single-threaded within a context or a decorated function.

    Multi-threaded matrix products can add numbers in a different order. In
    this context, results are bit-identical for any number of threads.

    Yields:
        The number of threads before the context was entered. In nested
        contexts, this is the number before the outermost context.
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
    """Return a cached thread pool; `process` is the process ID, so that forks create new pools."""
    return ThreadPoolExecutor(
        num_threads, "metarl-chunk", initializer=torch.set_num_threads, initargs=(1,)
    )


def parallel_map(
    function: Callable[[Any], Result], items: list[Any], *, device: torch.device
) -> list[Result]:
    """Apply a function to every item, in parallel on the CPU and sequentially on an accelerator.

    All threads use the caller's autograd mode, and operators are
    single-threaded. The number of threads does not affect the results. The
    largest items are started first, to balance the load.

    Args:
        function: Function of one item.
        items: The items, such as chunks of tasks.
        device: Device of the tensors in `items`.

    Returns:
        The results in the order of `items`.
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
    """Split a tree along the leading task axis into chunks of at most `chunk_size` tasks.

    Args:
        tasks: A tree whose tensors have a leading task axis.
        chunk_size: Maximum number of tasks per chunk. None returns all tasks as one chunk.

    Raises:
        ValueError: If the tensors differ in the number of tasks.
    """
    parts = tree.leaves(tasks)
    sizes = {x.shape[0] for x in parts}
    if len(sizes) != 1:
        raise ValueError(
            "all tensors in `tasks` must have the same number of tasks on axis 0, got "
            f"{sorted(sizes)}. Check that every tensor has a task axis"
        )
    size = chunk_size or sizes.pop()
    columns = [torch.split(x, size) for x in parts]
    return [tree.replace_leaves(tasks, column) for column in zip(*columns, strict=True)]


def join(chunks: list[Tree]) -> Tree:
    """Concatenate chunks along the task axis, as the inverse of :func:`split`."""
    return tree.map_leaves(lambda *x: torch.cat(x), *chunks)


def over_tasks(function: Callable[[Any], Any], tasks: Any) -> Any:
    """Apply a function of one task to all tasks in a chunk.

    For several tasks, `function` is called with ``vmap``. For a single
    task, `function` is called directly. A direct call has a third of the
    overhead of ``vmap`` and keeps matrix products row-major in second
    derivatives.

    Args:
        function: Function from a task to a tree of tensors.
        tasks: A tree whose tensors have a leading task axis.

    Returns:
        The results, stacked along a leading task axis.
    """
    if tree.leaves(tasks)[0].shape[0] > 1:
        return vmap(function)(tasks)
    # The derivative of squeeze is a view; that of x[0] would be a copy into zeros.
    result = function(tree.map_leaves(lambda x: x.squeeze(0), tasks))
    return tree.map_leaves(lambda x: x.unsqueeze(0), result)


def map_tasks(function: Callable[[Any], Result], tasks: Any, chunk_size: int | None) -> Result:
    """Apply a function of one task to a meta-batch, chunk by chunk.

    Args:
        function: Function from a task to a tree of tensors; the results are
            stacked along a leading task axis.
        tasks: A tree whose tensors have a leading task axis.
        chunk_size: Maximum number of tasks per chunk. None processes all tasks as one chunk.
    """
    parts, device = split(tasks, chunk_size), tree.leaves(tasks)[0].device
    done = parallel_map(lambda part: over_tasks(function, part), parts, device=device)
    joined: Result = join(done)
    return joined


def cache_sized(examples_per_task: int, num_tasks: int, device: torch.device) -> int | None:
    """Return the number of tasks per chunk that fits into the CPU cache.

    The number does not depend on the machine, because chunks determine the
    order of summation, and results must not differ between machines. A chunk
    contains at most an eighth of the tasks, rounded up, so that several
    threads or processes can share the work.

    Args:
        examples_per_task: Number of examples or transitions per task.
        num_tasks: Number of tasks in the meta-batch.
        device: Device of the tensors.

    Returns:
        The number of tasks per chunk on the CPU; None, for all tasks in one
        chunk, on other devices.
    """
    if device.type != "cpu":
        return None
    fitting = EXAMPLES_PER_CHUNK // max(1, examples_per_task)
    return max(1, min(fitting, -(-num_tasks // CHUNKS)))
