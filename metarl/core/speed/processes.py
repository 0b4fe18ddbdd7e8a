"""Processes of ``torchrun`` that share the tasks of a meta-batch.

All processes sample the same tasks and the same noise, process their share of the tasks, and sum
the results. A single process uses the same code, and the number of processes affects results only
by rounding.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metarl.core import Tree, tree


Item = TypeVar("Item")


class PeerFailed(RuntimeError):
    """Error after a failure of a different process, which prints the reason."""

    reported_elsewhere = True


class SharedError(ValueError):
    """Error that all processes raise together and only the process of rank 0 prints."""

    raised_everywhere = True


class TaskSlice(NamedTuple):
    """The tasks of one process: `number` of `total` tasks, starting at index `first`."""

    first: int
    number: int
    total: int

    def of_list(self, tasks: list[Item]) -> list[Item]:
        """Return the tasks of this process from a list of all tasks."""
        return tasks[self.first : self.first + self.number]

    def of_batch(self, tasks: Tree) -> Tree:
        """Return the tasks of this process from a meta-batch with a leading task axis."""
        if self.number == self.total:
            return tasks
        return tree.map_leaves(lambda x: x[self.first : self.first + self.number], tasks)


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, starting at 0."""
    return dist.get_rank() if size() > 1 else 0


def writes() -> bool:
    """Return whether this process writes files and progress: the process of rank 0."""
    return rank() == 0


def require_alone(what: str) -> None:
    """Raise an error if ``torchrun`` has started several processes.

    Args:
        what: Subject of the error message.

    Raises:
        SharedError: If there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SharedError(f"{what} support only one process; start them without torchrun")


def share(total: int, *, multiple: int = 1) -> TaskSlice:
    """Return the tasks of this process; shares differ by at most one task or chunk.

    Args:
        total: Number of tasks in the meta-batch.
        multiple: Number of tasks in a chunk. Chunks are not split between processes if there are
            enough of them.

    Raises:
        SharedError: If there are fewer tasks than processes.
    """
    if total < size():
        raise SharedError(f"{size()} processes cannot share {total} tasks; increase num_tasks")
    chunks = -(-total // multiple)
    if chunks < size():
        chunks, multiple = total, 1
    first, last = (
        min(total, multiple * (chunks * number // size())) for number in (rank(), rank() + 1)
    )
    return TaskSlice(first, last - first, total)


def total(parts: list[Tree]) -> Tree:
    """Sum trees over all parts and all processes, independently of their distribution to processes.

    A trust region would amplify a difference in the last bit, because conjugate gradients turn it
    into a different direction. Sums of float32 numbers are exact in float64, unless they differ by
    many orders of magnitude. Each float64 number is split into two halves with exact sums.

    Raises:
        PeerFailed: If a different process has failed.
    """
    if size() == 1 and len(parts) == 1:  # the same result without the work
        return parts[0]
    if any(x.dtype == torch.float64 for x in tree.leaves(parts[0])):
        highs = [tree.map_leaves(lambda x: x.float().double(), part) for part in parts]
        lows = [tree.map_leaves(_rest, *pair) for pair in zip(parts, highs, strict=True)]
        sums = tree.add(*(_over_processes(tree.widened_total(half)) for half in (highs, lows)))
    else:
        sums = _over_processes(tree.widened_total(parts))
    return tree.map_leaves(lambda x, like: x.to(like.dtype), sums, parts[0])


def _rest(x: Tensor, high: Tensor) -> Tensor:
    return (x - high).nan_to_num(0.0, 0.0, 0.0)  # `high` contains values that are not finite


def _over_processes(values: Tree) -> Tree:
    if size() == 1:
        return values
    flat, unravel = tree.ravel(tree.detach(values))
    with _peers_may_fail():
        dist.all_reduce(flat)
    return unravel(flat)


def count(number: int) -> int:
    """Sum a number over all processes."""
    return number if size() == 1 else int(_over_processes(torch.tensor(number)))


def mean_over_tasks(values: Tree) -> Tree:
    """Average every tensor over its leading (task) axis and over all processes.

    The result does not depend on the number of processes; see :func:`total`.
    """
    number = len(tree.leaves(values)[0])
    tasks = [tree.map_leaves(lambda x, index=index: x[index], values) for index in range(number)]
    return tree.scale(total(tasks), 1 / count(number))


def most(number: int) -> int:
    """Return the maximum of a number over all processes."""
    return max(interleaved([number], size()))


def interleaved(values: list[Item], total: int) -> list[Item]:
    """Merge the lists of all processes; process r has the items r, r + size, ... of `total`."""
    if size() == 1:
        return values
    lists: list[Any] = [None] * size()
    with _peers_may_fail():
        dist.all_gather_object(lists, values)
    return [lists[place % size()][place // size()] for place in range(total)]


@contextmanager
def joined() -> Iterator[None]:
    """Context in which this process is part of the group that ``torchrun`` has started."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    with _peers_may_fail():
        dist.barrier()  # later failures are then reported to all processes
    yield  # after an error, other processes are not waited for
    dist.destroy_process_group()


@contextmanager
def _peers_may_fail() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        error_text = f"process {rank()} stops because a different process has failed ({reason})"
        raise PeerFailed(error_text) from None
