"""The processes that share a meta-batch under ``torchrun``: each has its tasks, sums are over all.

Every process draws the same tasks and the same noise, works on its share of the tasks, and adds
what it found to what the others did. So a process on its own is the case of one, not a special one,
and the number of processes changes a result by rounding alone.
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
    """Another process ended, and has said why."""

    told_elsewhere = True


class Refused(ValueError):
    """What all processes refuse alike: the first says it for them."""

    same_everywhere = True


class TaskSlice(NamedTuple):
    """The tasks of one process: `number` of `total`, beginning with `first`."""

    first: int
    number: int
    total: int

    def of_list(self, tasks: list[Item]) -> list[Item]:
        """Take the share of a list of tasks."""
        return tasks[self.first : self.first + self.number]

    def of_batch(self, tasks: Tree) -> Tree:
        """Take the share of a meta-batch, whose tensors have a leading task axis."""
        if self.number == self.total:
            return tasks
        return tree.map_leaves(lambda x: x[self.first : self.first + self.number], tasks)


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def writes() -> bool:
    """Say whether this process is the one that writes files and progress."""
    return rank() == 0


def require_alone(what: str) -> None:
    """Refuse to be one of several processes, also before they have met.

    Raises:
        Refused: If ``torchrun`` has started this process beside others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Refused(f"{what} have one process; start them without torchrun")


def share(total: int, *, multiple: int = 1) -> TaskSlice:
    """Return the tasks of this process; the shares of two differ by one task, or chunk, at most.

    Args:
        total: Tasks of the meta-batch.
        multiple: Tasks of a chunk, which is not divided if there are enough of them.

    Raises:
        Refused: If there are fewer tasks than processes.
    """
    if total < size():
        raise Refused(f"{size()} processes cannot share {total} tasks; raise num_tasks")
    chunks = -(-total // multiple)
    if chunks < size():
        chunks, multiple = total, 1
    first, last = (
        min(total, multiple * (chunks * number // size())) for number in (rank(), rank() + 1)
    )
    return TaskSlice(first, last - first, total)


def total(parts: list[Tree]) -> Tree:
    """Add up trees over all parts and all processes: the same bits whichever process had which.

    A trust region would amplify a different last bit: conjugate gradients turn it into a different
    direction. Numbers of 32 bits add up exactly in 64, unless they are many orders of magnitude
    apart. Those of 64 are cut in two halves that do.

    Raises:
        PeerFailed: If another process has ended.
    """
    if size() == 1 and len(parts) == 1:  # the same bits, without the work
        return parts[0]
    if any(x.dtype == torch.float64 for x in tree.leaves(parts[0])):
        highs = [tree.map_leaves(lambda x: x.float().double(), part) for part in parts]
        lows = [tree.map_leaves(_rest, *pair) for pair in zip(parts, highs, strict=True)]
        sums = tree.add(*(_over_processes(tree.widened_total(half)) for half in (highs, lows)))
    else:
        sums = _over_processes(tree.widened_total(parts))
    return tree.map_leaves(lambda x, like: x.to(like.dtype), sums, parts[0])


def _rest(x: Tensor, high: Tensor) -> Tensor:
    return (x - high).nan_to_num(0.0, 0.0, 0.0)  # what is not finite is in `high`


def _over_processes(values: Tree) -> Tree:
    if size() == 1:
        return values
    flat, unravel = tree.ravel(tree.detach(values))
    with _peers_may_fail():
        dist.all_reduce(flat)
    return unravel(flat)


def count(number: int) -> int:
    """Add up a number over all processes."""
    return number if size() == 1 else int(_over_processes(torch.tensor(number)))


def mean_over_tasks(values: Tree) -> Tree:
    """Average every tensor over its leading axis, the tasks, and over all processes."""
    if size() == 1:
        return tree.map_leaves(lambda x: x.mean(0), values)
    tasks = count(len(tree.leaves(values)[0]))
    return tree.scale(total([tree.map_leaves(lambda x: x.sum(0), values)]), 1 / tasks)


def most(number: int) -> int:
    """Return the largest of the processes' numbers."""
    return max(interleaved([number], size()))


def interleaved(values: list[Item], total: int) -> list[Item]:
    """Put lists together of which process r has the items r, r + size, ... of `total`."""
    if size() == 1:
        return values
    lists: list[Any] = [None] * size()
    with _peers_may_fail():
        dist.all_gather_object(lists, values)
    return [lists[place % size()][place // size()] for place in range(total)]


@contextmanager
def joined() -> Iterator[None]:
    """Meet the processes that ``torchrun`` has started: its variables say where."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    with _peers_may_fail():
        dist.barrier()  # who has met all hears of it when one fails
    yield  # after an error nobody is waited for
    dist.destroy_process_group()


@contextmanager
def _peers_may_fail() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerFailed(f"process {rank()} stops, it lost another one ({reason})") from None
