"""The inner loop: adapted parameters, starts, numbers of steps and the documented example."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    Params,
    Task,
    backprop,
    functional,
    gradient_learner,
    meta_sgd,
    query_loss,
    sgd,
)
from metarl.core.types import MetaParams
from tests.support.problems import randn, seeded


def pull(params: Params, target: Tensor) -> Tensor:
    """A loss whose gradient is parameter − target for every name."""
    return sum(((p - target) ** 2).sum() for p in params.values()) / 2


def start_at(**values: float) -> Params:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def values(params: Params) -> dict[str, float]:
    return {name: round(p.item(), 12) for name, p in params.items()}


ZERO = torch.zeros(1, dtype=torch.float64)


def test_path_contains_the_parameters_after_every_step() -> None:
    loop = InnerLoop(pull, sgd(0.5), num_steps=3)
    path = loop.path(loop.init(start_at(a=8.0)), (ZERO,))
    assert [values(p)["a"] for p in path] == [8, 4, 2, 1]
    assert loop.adapt(loop.init(start_at(a=8.0)), (ZERO,)) == path[-1]


def test_each_step_uses_its_own_batch() -> None:
    loop = InnerLoop(pull, sgd(1.0))
    path = loop.path(loop.init(start_at(a=8.0)), (ZERO + 1, ZERO + 2, ZERO + 3))
    assert [values(p)["a"] for p in path] == [8, 1, 2, 3]


def test_rates_can_differ_by_step_and_the_last_one_is_reused() -> None:
    loop = InnerLoop(pull, sgd([0.5, 0.25]), num_steps=3)
    path = loop.path(loop.init(start_at(a=16.0)), (ZERO,))
    assert [values(p)["a"] for p in path] == [16, 8, 6, 4.5]


def test_only_fast_parameters_adapt_and_have_rates() -> None:
    loop = InnerLoop(pull, meta_sgd(0.5), fast=lambda name: name == "head", num_steps=1)
    meta = loop.init(start_at(body=4.0, head=4.0))
    assert set(meta.inner) == {"lr.head"}
    assert values(loop.adapt(meta, (ZERO,))) == {"body": 4, "head": 2}


def test_slow_parameters_receive_the_meta_gradient() -> None:
    loop = InnerLoop(pull, sgd(0.5), fast=lambda name: name == "head", num_steps=1)
    meta = loop.init(start_at(body=4.0, head=4.0))
    gradient, _ = backprop(loop, query_loss(pull))(meta, Task((ZERO,), ZERO))
    assert values(gradient.model) == {"body": 4, "head": 1}


def test_both_passes_of_a_step_use_its_row_of_a_per_step_parameter() -> None:
    rows = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    seen = []

    def loss(params: Params, target: Tensor) -> Tensor:
        seen.append(params["norm"].detach())
        return pull({"a": params["a"] * params["norm"]}, target)

    loop = InnerLoop(
        loss, sgd(0.1), fast=lambda name: name == "a", per_step=frozenset({"norm"}), num_steps=4
    )
    path = loop.path(loop.init({"norm": rows, **start_at(a=1.0)}), (ZERO,))
    assert [values(p)["norm"] for p in path] == [1, 1, 2, 3, 3]
    assert torch.cat(seen).tolist() == [1, 2, 3, 3]
    assert values(path[1])["a"] == 0.9  # 1 − 0.1 · 1²
    assert values(path[2])["a"] == 0.54  # 0.9 − 0.1 · 0.9 · 2²


def test_start_can_compute_parameters_from_a_batch_and_consume_it() -> None:
    def start(params: Params, batches: tuple[Tensor, ...]) -> tuple[Params, tuple[Tensor, ...]]:
        return {**params, "head": 2 * params["a"] + batches[0]}, batches[1:]

    loop = InnerLoop(pull, sgd(0.5), start=start, first_order=True)
    meta, task = loop.init(start_at(a=4.0)), Task((ZERO + 2, ZERO), ZERO)
    assert [values(p) for p in loop.path(meta, task.support)] == [
        {"a": 4, "head": 10},
        {"a": 2, "head": 5},
    ]
    gradient, _ = backprop(loop, query_loss(pull))(meta, task)
    assert values(gradient.model) == {"a": 2 + 2 * 5}  # through the head, also with first_order


def test_fewer_batches_than_steps_take_turns() -> None:
    loop = InnerLoop(pull, sgd(0.25), num_steps=3)
    one, two = torch.tensor(4.0), torch.tensor(8.0)
    meta = MetaParams(start_at(a=0.0), {})
    expected = [values(p) for p in loop.path(meta, (one, two, one))]
    assert [values(p) for p in loop.path(meta, (one, two))] == expected
    assert expected != [values(p) for p in loop.path(meta, (two, one))]


@pytest.mark.parametrize("batches", [(), (ZERO,) * 4])
def test_the_number_of_batches_must_be_from_one_to_the_number_of_steps(
    batches: tuple[Tensor, ...],
) -> None:
    loop = InnerLoop(pull, sgd(0.5), num_steps=3)
    with pytest.raises(ValueError, match=rf"1 to 3 support batches .*got {len(batches)}"):
        loop.path(MetaParams(start_at(a=1.0), {}), batches)


def test_zero_steps_do_not_change_the_parameters() -> None:
    loop = InnerLoop(pull, sgd(0.5), num_steps=0)
    meta = loop.init(start_at(a=3.0))
    assert loop.adapt(meta, ()) == loop.adapt(meta, (ZERO,)) == meta.model


def test_the_example_of_the_documentation_runs() -> None:
    my_module, generator = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), seeded(0)
    my_tasks = [Task(((x := randn(4, 5, 1).float(), x.sin()),), (x, x.sin())) for _ in range(3)]
    support = (randn(5, 1).float(), randn(5, 1).float())

    apply, params = functional(my_module)
    loss = lambda p, batch: F.mse_loss(apply(p, batch[0]), batch[1])  # noqa: E731
    loop = InnerLoop(loss, meta_sgd(lr=0.01), num_steps=5)
    learner = gradient_learner(
        loop, backprop(loop, outer=query_loss(loss)), torch.optim.Adam, lr=1e-3
    )
    state = learner.init(params, generator)
    for tasks in my_tasks:
        state, metrics = learner.step(state, tasks)
    adapted = learner.adapt(state.params, (support,))

    assert metrics["query/loss"] < metrics["query/loss_before"]
    assert_close(apply(adapted, support[0]).shape, support[1].shape)
    assert loss(adapted, support) < loss(state.params.model, support)
