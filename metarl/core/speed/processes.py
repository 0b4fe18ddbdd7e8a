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

from metarl.core import tree
from metarl.core.tree import Tree


Item = TypeVar("Item")
ROOM = 13  # bits for the sum of up to 4,096 numbers, and its sign
MANTISSA = 52


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
        raise Refused(
            f"{size()} processes cannot share {total} tasks: start fewer, or raise --num-tasks"
        )
    chunks = -(-total // multiple)
    if chunks < size():
        chunks, multiple = total, 1
    first, last = (
        min(total, multiple * (chunks * number // size())) for number in (rank(), rank() + 1)
    )
    return TaskSlice(first, last - first, total)


def total(parts: list[Tree]) -> Tree:
    """Add up trees, those of all processes, to the same bits whichever process had which of them.

    A trust region would tell: conjugate gradients turn another last bit into another direction.
    Numbers of 32 bits add up exactly in 64, unless they are many orders of magnitude apart. Those
    of 64 are cut into two parts that do (:func:`_cut`).

    Raises:
        PeerFailed: If another process has ended.
    """
    if size() == 1 and len(parts) == 1:  # what it would come to, bit for bit
        return parts[0]
    if any(x.dtype == torch.float64 for x in tree.leaves(parts[0])):
        largest = _over_processes(_largest(parts), dist.ReduceOp.MAX)
        high, low = zip(*(_cut(part, largest) for part in parts), strict=True)
        sums = tree.add(_sum(list(high)), _sum(list(low)))
    else:
        sums = _sum(parts)
    found: Tree = tree.map_leaves(lambda x, like: x.to(like.dtype), sums, parts[0])
    return found


def _sum(parts: list[Tree]) -> Tree:
    return _over_processes(tree.widened_total(parts))


def _largest(parts: list[Tree]) -> Tree:
    """Return the largest magnitude of every number among the parts."""
    found: Tree = tree.map_leaves(lambda *x: torch.stack(x).abs().amax(0).double(), *parts)
    return found


def _cut(part: Tree, largest: Tree) -> tuple[Tree, Tree]:
    """Cut every number into its leading bits and the next ones (Demmel & Nguyen 2013).

    Sums of up to 2¹² of either are exact: all are multiples of one power of two, and leave room.
    """

    def leading(x: Tensor, exponent: Tensor) -> Tensor:
        anchor = torch.ldexp(torch.full_like(x, 1.5), exponent)
        return (x + anchor) - anchor

    def cut(x: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        wide, exponent = x.double(), torch.frexp(bound).exponent + ROOM
        high = leading(wide, exponent)
        low = leading(wide - high, exponent - MANTISSA + ROOM)
        finite = torch.isfinite(bound)
        return torch.where(finite, high, wide), torch.where(finite, low, 0.0)

    pairs = [cut(*pair) for pair in zip(tree.leaves(part), tree.leaves(largest), strict=True)]
    high, low = zip(*pairs, strict=True)
    return tree.replace_leaves(part, high), tree.replace_leaves(part, low)


def _over_processes(values: Tree, operation: Any = dist.ReduceOp.SUM) -> Tree:
    if size() == 1:
        return values
    leaves = tree.leaves(values)
    sums: dict[int, Tensor] = {}
    for kind in dict.fromkeys(x.dtype for x in leaves):
        places = [i for i, x in enumerate(leaves) if x.dtype == kind]
        flat = torch.cat([leaves[i].detach().reshape(-1) for i in places])
        _all_reduce(flat, operation)
        pieces = torch.split(flat, [leaves[i].numel() for i in places])
        sums |= {i: piece.view(leaves[i].shape) for i, piece in zip(places, pieces, strict=True)}
    return tree.replace_leaves(values, [sums[i] for i in range(len(leaves))])


def count(number: int) -> int:
    """Add up a number over all processes."""
    return number if size() == 1 else int(_over_processes(torch.tensor(number)))


def mean_over_tasks(values: Tree) -> Tree:
    """Average every tensor over its leading axis, the tasks, and over all processes."""
    if size() == 1:
        return tree.mean_over_tasks(values)
    tasks = count(len(tree.leaves(values)[0]))
    return tree.scale(total([tree.map_leaves(lambda x: x.sum(0), values)]), 1 / tasks)


def most(number: int) -> int:
    """Return the largest of the processes' numbers."""
    if size() == 1:
        return number
    value = torch.tensor(number)
    _all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


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


def _all_reduce(values: Tensor, operation: Any) -> None:
    with _peers_may_fail():
        dist.all_reduce(values, operation)


@contextmanager
def _peers_may_fail() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerFailed(f"process {rank()} stops, it lost another one ({reason})") from None
