"""The implicit meta-gradient: closed forms, long unrolls and constant memory."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.core import (
    InnerLoop,
    MetaParams,
    Params,
    Task,
    TaskGradient,
    backprop,
    functional,
    implicit,
    meta_gradient,
    meta_sgd,
    query_loss,
    reptile,
    sgd,
    tree,
)
from metarl.nn.dense import mlp
from tests.support.problems import bowl, positive, randn, random_like, relative_error, task_of
from tests.support.reference_supervised import LR, NETS, Rule, implicit_by_hand, through_the_path


SIZE = 4
LAMBDA = 1.5


BOWLS = Task(((positive(SIZE, 0), randn(SIZE, seed=1)),), (positive(SIZE, 2), randn(SIZE, seed=3)))


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_implicit_gradient_matches_the_closed_form_on_a_quadratic(damping: float) -> None:
    loop = InnerLoop(bowl, sgd(0.2), num_steps=200, proximal=LAMBDA)
    estimator = implicit(loop, query_loss(bowl), cg_steps=SIZE, damping=damping)
    start = randn(SIZE, seed=4)
    gradient, metrics = estimator(loop.init({"w": start}), BOWLS)
    (hessian, center), (other, goal) = BOWLS.support[0], BOWLS.query
    eye = torch.eye(SIZE, dtype=start.dtype)
    minimum = torch.linalg.solve(hessian + LAMBDA * eye, hessian @ center + LAMBDA * start)
    matrix = (1 + damping) * eye + hessian / LAMBDA
    expected = torch.linalg.solve(matrix, other @ (minimum - goal))
    assert_close(gradient.model["w"], expected, rtol=1e-10, atol=1e-12)
    assert metrics["implicit/cg_residual"] < 1e-12
    assert metrics["query/loss"].item() == pytest.approx(bowl({"w": minimum}, BOWLS.query).item())


HEAD = ("2.weight", "2.bias")
WHAT_ADAPTS: dict[str, tuple[Callable[[str], bool], str | None]] = {
    "all": (lambda name: True, None),
    "head": (lambda name: name in HEAD, None),
    "body": (lambda name: name not in HEAD, None),
    "all but a row per step": (lambda name: True, "0.bias"),
    "head, and a row per step": (lambda name: name in HEAD, "0.bias"),
}


def small_problem(
    what: str, *, steps: int, proximal: float = 3.0
) -> tuple[InnerLoop, Rule, MetaParams, Task]:
    """Build a network of 13 parameters, its inner loop and a meta-batch."""
    adapts, per_step = WHAT_ADAPTS[what]
    apply, params = functional(mlp((2, 3, 1), activation="tanh").double())
    loop = InnerLoop(
        lambda p, batch: F.mse_loss(apply(p, batch[0]), batch[1]),
        sgd(LR),
        fast=adapts,
        per_step=frozenset(filter(per_step.__eq__, params)) if per_step else frozenset(),
        num_steps=steps,
        proximal=proximal,
    )
    params = random_like(params, seed=1)
    if per_step:
        params[per_step] = randn(2, 3, seed=2)
    batches = [(randn(2, 6, 2, seed=s), randn(2, 6, 1, seed=s + 1)) for s in (3, 5)]
    rule = Rule(adapts=adapts, steps=steps, proximal=proximal)
    return loop, rule, loop.init(params), Task((batches[0],), batches[1])


@pytest.mark.parametrize("what", WHAT_ADAPTS)
def test_implicit_gradient_matches_a_long_unroll(what: str) -> None:
    loop, rule, meta, tasks = small_problem(what, steps=60)
    gradient, _ = meta_gradient(implicit(loop, query_loss(loop.loss), cg_steps=13), meta, tasks)
    per_step = WHAT_ADAPTS[what][1]
    each = [
        through_the_path(NETS["mlp"], rule, meta, task_of(tasks, index), per_step)
        for index in range(2)
    ]
    means = [torch.stack(values).mean(0) for values in zip(*each, strict=True)]
    expected = dict(zip(meta.model, means, strict=True))
    assert relative_error(gradient.model, expected) < 1e-4  # the relative residual is 1e-5
    assert all(expected[name].abs().max() > 1e-4 for name in expected)


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("cg_steps", [1, 3, 13])
def test_residual_metric_is_the_residual_of_conjugate_gradients(
    cg_steps: int, damping: float
) -> None:
    loop, rule, meta, tasks = small_problem("all", steps=5)
    estimator = implicit(loop, query_loss(loop.loss), cg_steps=cg_steps, damping=damping)
    gradient, metrics = estimator(meta, task_of(tasks, 0))
    expected, residual = implicit_by_hand(
        NETS["mlp"], rule, meta, task_of(tasks, 0), damping=damping, steps=cg_steps
    )
    if cg_steps < 13:
        assert relative_error(list(gradient.model.values()), expected) < 1e-10
        assert metrics["implicit/cg_residual"].item() == pytest.approx(residual.item(), rel=1e-8)
    else:
        assert relative_error(list(gradient.model.values()), expected) < 1e-5
        assert metrics["implicit/cg_residual"] < 1e-5 * tree.norm(list(gradient.model.values()))


def test_inner_loop_converges_to_the_proximal_optimum() -> None:
    loop, _, meta, tasks = small_problem("all", steps=60)
    task = task_of(tasks, 0)
    adapted = loop.adapt(meta, task.support)
    slope = torch.func.grad(loop.loss)(adapted, task.support[0])
    pull = {name: 3 * (p - meta.model[name]) for name, p in adapted.items()}
    assert tree.norm(tree.add(slope, pull)) < 1e-6 * tree.norm(pull)


class PeakMemory(TorchDispatchMode):
    """A dispatch mode that counts the bytes of live tensors created in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = operator(*args, **(kwargs or {}))
        for tensor in tree.leaves(results):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.alive.values()))
        return results


def peak_memory(estimator: Callable[..., TaskGradient], steps: int) -> int:
    loop, _, meta, tasks = small_problem("all", steps=steps)
    gradient_of_task = estimator(loop, query_loss(loop.loss))
    tree.map_leaves(torch.clone, loop.loss(meta.model, task_of(tasks.query, 0)))  # warm-up
    with PeakMemory() as memory:
        meta_gradient(gradient_of_task, meta, tasks)
    return memory.peak


@pytest.mark.parametrize("estimator", [implicit, reptile])
def test_memory_does_not_grow_with_the_inner_steps(estimator: Callable[..., TaskGradient]) -> None:
    few, many = (peak_memory(estimator, steps) for steps in (5, 100))
    assert few > 1000
    assert many <= 1.02 * few


def test_memory_of_backpropagation_grows_with_the_inner_steps() -> None:
    five, ten, twenty = (peak_memory(backprop, steps) for steps in (5, 10, 20))
    assert 2 * (ten - five) == pytest.approx(twenty - ten, rel=0.05)
    assert twenty > 3 * five
    assert five > peak_memory(implicit, 20)


def test_loop_without_a_proximal_term_is_rejected() -> None:
    loop = InnerLoop(bowl, sgd(0.2), num_steps=3)
    with pytest.raises(ValueError, match=r"an InnerLoop with proximal > 0, got 0\.0"):
        implicit(loop, query_loss(bowl))


def test_learned_rates_are_rejected() -> None:
    loop = InnerLoop(bowl, meta_sgd(0.2), num_steps=3, proximal=1.0)
    with pytest.raises(ValueError, match="without learned hyperparameters"):
        implicit(loop, query_loss(bowl))(loop.init({"w": randn(SIZE)}), BOWLS)


def test_start_that_adds_parameters_is_rejected() -> None:
    def start(params: Params, batches: tuple[Any, ...]) -> tuple[Params, tuple[Any, ...]]:
        return {**params, "head": params["w"]}, batches

    loop = InnerLoop(bowl, sgd(0.2), num_steps=3, proximal=1.0, start=start)
    with pytest.raises(ValueError, match="no `start` that adds parameters"):
        implicit(loop, query_loss(bowl))(loop.init({"w": randn(SIZE)}), BOWLS)
