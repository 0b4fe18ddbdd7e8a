"""Distributed training: processes started by ``torchrun`` share the tasks in a meta-batch.

All processes sample the same tasks and the same noise. Each process computes
the results for a share of the tasks, and the results are summed over all
processes. A single process uses the same code, so the number of processes
affects results only by rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metarl.core import Tree, tree
from metarl.util import environment_integer


Item = TypeVar("Item")


class PeerFailed(RuntimeError):
    """Error in a process that stops because a different process has failed and printed an error."""

    reported_elsewhere = True


class SharedError(ValueError):
    """Error that all processes raise together, and that only rank 0 prints."""

    raised_everywhere = True


class TaskSlice(NamedTuple):
    """The tasks assigned to one process: `number` of `total` tasks, starting at index `first`."""

    first: int
    number: int
    total: int

    def of_list(self, tasks: list[Item]) -> list[Item]:
        """Select the tasks assigned to this process from a list of all tasks."""
        return tasks[self.first : self.first + self.number]

    def of_batch(self, tasks: Tree) -> Tree:
        """Select the tasks assigned to this process from a meta-batch with a leading task axis."""
        if self.number == self.total:
            return tasks
        return tree.map_leaves(lambda x: x[self.first : self.first + self.number], tasks)


def size() -> int:
    """Return the number of processes in distributed training, or 1 otherwise."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process in distributed training, or 0 otherwise."""
    return dist.get_rank() if size() > 1 else 0


def writes() -> bool:
    """Return whether this process writes files and prints progress: True only on rank 0."""
    return rank() == 0


def require_single_process(what: str) -> None:
    """Raise an error if ``torchrun`` has started several processes.

    Args:
        what: Feature that requires a single process, as a plural noun for the
            error message, such as ``"comparisons"``.

    Raises:
        SharedError: If ``torchrun`` has started several processes.
    """
    if environment_integer("WORLD_SIZE", least=1, default=1) > 1:
        raise SharedError(f"{what} support only one process; start them without torchrun")


def share(total: int, *, multiple: int = 1) -> TaskSlice:
    """Return the slice of the meta-batch that is assigned to this process.

    The sizes of the slices differ by at most one chunk or, if chunks are split, by one task.

    Args:
        total: Number of tasks in the meta-batch.
        multiple: Number of tasks per chunk. Chunks are only split between
            processes if there are fewer chunks than processes.

    Raises:
        SharedError: If there are fewer tasks than processes.
    """
    if total < size():
        raise SharedError(
            f"{size()} processes cannot share {total} tasks: expected at least one task per "
            "process. Increase num_tasks or start fewer processes"
        )
    chunks = -(-total // multiple)
    if chunks < size():
        chunks, multiple = total, 1
    first, last = (
        min(total, multiple * (chunks * number // size())) for number in (rank(), rank() + 1)
    )
    return TaskSlice(first, last - first, total)


def total(parts: list[Tree]) -> Tree:
    """Return the elementwise sum of trees over all parts and all processes.

    The sum does not depend on how the parts are distributed over processes;
    otherwise, conjugate gradients would amplify the rounding differences.
    Float32 numbers are summed in float64, which is exact unless the numbers
    differ by many orders of magnitude. Each float64 number is split into two
    halves that are summed exactly.

    Args:
        parts: Trees with the same structure that this process contributes.

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
    """Return the sum of an integer over all processes."""
    return number if size() == 1 else int(_over_processes(torch.tensor(number)))


def mean_over_tasks(values: Tree) -> Tree:
    """Return the mean of every tensor over the leading task axis and over all processes.

    The result does not depend on how the tasks are distributed over processes; see :func:`total`.
    """
    number = len(tree.leaves(values)[0])
    tasks = [tree.map_leaves(lambda x, index=index: x[index], values) for index in range(number)]
    return tree.scale(total(tasks), 1 / count(number))


def most(number: int) -> int:
    """Return the maximum of an integer over all processes."""
    return max(interleaved([number], size()))


def interleaved(values: list[Item], total: int) -> list[Item]:
    """Gather the items of all processes into one list, which every process receives.

    Args:
        values: The items of this process: the items r, r + n, r + 2n, ... for
            rank r of n processes.
        total: Total number of items on all processes.

    Returns:
        All items, ordered by index.
    """
    if size() == 1:
        return values
    lists: list[Any] = [None] * size()
    with _peers_may_fail():
        dist.all_gather_object(lists, values)
    return [lists[place % size()][place // size()] for place in range(total)]


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group started by ``torchrun`` for the duration of a context.

    Raises:
        ValueError: If an environment variable that ``torchrun`` sets is invalid.
    """
    world = environment_integer("WORLD_SIZE", least=1, default=1)
    if (own := environment_integer("RANK")) >= world:
        raise ValueError(
            f"the environment variable RANK must be less than WORLD_SIZE={world}, got {own}. Start "
            "the command with torchrun"
        )
    environment_integer("MASTER_PORT")  # torch does not name the variable
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
        raise PeerFailed(
            f"process {rank()} stops because a different process has failed ({reason}). Fix the "
            "error that the other process printed"
        ) from None
