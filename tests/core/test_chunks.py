"""Meta-batches in chunks: splitting, joining and parallel processing."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core import tree
from metarl.core.speed import chunks


class Pair(NamedTuple):
    a: Tensor
    b: tuple[Tensor, ...]


PAIR = Pair(torch.arange(10.0).view(5, 2), (torch.arange(5),))


@pytest.mark.parametrize(
    ("size", "lengths"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5]), (None, [5])]
)
def test_split_and_join_are_inverse(size: int | None, lengths: list[int]) -> None:
    parts = chunks.split(PAIR, size)
    assert [len(part.a) for part in parts] == lengths
    assert_close(chunks.join(parts), PAIR, rtol=0, atol=0)


def test_split_rejects_unequal_numbers_of_tasks() -> None:
    with pytest.raises(ValueError, match="same number of tasks"):
        chunks.split(Pair(torch.zeros(2), (torch.zeros(3),)), 1)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_over_tasks_equals_one_call_per_task(num_tasks: int) -> None:
    def function(pair: Pair) -> Pair:
        return Pair(pair.a.sum(), (pair.b[0] * pair.a,))

    pairs = tree.map_leaves(lambda x: x[:num_tasks], PAIR)
    expected = tree.stack(
        [function(tree.map_leaves(lambda x, i=i: x[i], pairs)) for i in range(num_tasks)]
    )
    assert_close(chunks.over_tasks(function, pairs), expected)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_parallel_map_keeps_order_grad_mode_and_the_number_of_threads(num_threads: int) -> None:
    allowed = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                seen = chunks.parallel_map(
                    lambda x: (x, torch.is_grad_enabled(), torch.get_num_threads()),
                    list(range(5)),
                    device=torch.device("cpu"),
                )
            assert seen == [(x, enabled, 1) for x in range(5)]
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(allowed)


def test_parallel_map_starts_large_items_first_and_keeps_their_order() -> None:
    items = [torch.zeros(n) for n in (2, 5, 1, 5, 3)]
    begun: list[int] = []

    def work(x: torch.Tensor) -> int:
        begun.append(len(x))
        return len(x)

    allowed = torch.get_num_threads()
    torch.set_num_threads(1)  # sequentially
    try:
        seen = chunks.parallel_map(work, items, device=torch.device("cpu"))
    finally:
        torch.set_num_threads(allowed)
    assert seen == [2, 5, 1, 5, 3]
    assert begun == [5, 5, 3, 2, 1]


def test_parallel_map_raises_errors_and_restores_the_number_of_threads() -> None:
    allowed = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        chunks.parallel_map(lambda x: 1 / x, [1, 0, 1], device=torch.device("cpu"))
    assert torch.get_num_threads() == allowed
