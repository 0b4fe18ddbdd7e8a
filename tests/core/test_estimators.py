"""Reptile, FOMAML and MAML compared, and their common outer loss."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    MetaParams,
    Metrics,
    Params,
    Task,
    adam,
    backprop,
    meta_sgd,
    query_loss,
    reptile,
    sgd,
    tree,
)
from tests.support.problems import Bowl, bowl, positive, randn, relative_error


SIZE = 3


def random_bowl(seed: int) -> Bowl:
    return positive(SIZE, seed), randn(SIZE, seed=seed + 50)


def slope(start: Tensor, batch: Bowl) -> Tensor:
    return batch[0] @ (start - batch[1])


START = randn(SIZE, seed=99)


def direction(method: str, rate: float, batches: tuple[Bowl, ...]) -> Tensor:
    """The meta-gradient of one order of minibatches; for MAML the last one is the query."""
    if method == "reptile":
        loop = InnerLoop(bowl, sgd(rate))
        task = Task(batches, batches[-1])
        gradient, _ = reptile(loop, query_loss(bowl))(loop.init({"w": START}), task)
        return gradient.model["w"] / rate
    loop = InnerLoop(bowl, sgd(rate), first_order=method == "fomaml")
    task = Task(batches[:-1], batches[-1])
    gradient, _ = backprop(loop, query_loss(bowl))(loop.init({"w": START}), task)
    return gradient.model["w"]


EXPANSIONS: dict[str, Callable[[int], tuple[float, float]]] = {
    "maml": lambda k: (1, 2 * (k - 1)),
    "fomaml": lambda k: (1, k - 1),
    "reptile": lambda k: (k, k * (k - 1) / 2),
}


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("method", EXPANSIONS)
def test_expected_gradients_match_the_expansion_of_nichol_et_al(method: str, k: int) -> None:
    batches = [random_bowl(seed) for seed in range(k)]
    orders = list(permutations(batches))
    pairs = list(permutations(batches, 2))
    average = torch.stack([slope(START, batch) for batch in batches]).mean(0)
    inner = torch.stack([two[0] @ slope(START, one) for one, two in pairs]).mean(0)
    first, second = EXPANSIONS[method](k)

    def error(rate: float) -> float:
        expected = torch.stack([direction(method, rate, order) for order in orders]).mean(0)
        return (expected - (first * average - rate * second * inner)).norm().item()

    large, small = error(2e-3), error(1e-3)
    assert large < 1e-4
    if k == 2 and method != "maml":  # no terms of higher order remain
        assert large < 1e-12
    else:
        assert large / small == pytest.approx(4, rel=0.02)  # of second order in the rate


def test_reptile_with_one_step_is_the_scaled_support_gradient() -> None:
    loop = InnerLoop(bowl, sgd(0.3), num_steps=1)
    support, query = random_bowl(0), random_bowl(1)
    gradient, metrics = reptile(loop, query_loss(bowl))(
        loop.init({"w": START}), Task((support,), query)
    )
    assert_close(gradient.model["w"], 0.3 * slope(START, support), rtol=1e-12, atol=1e-14)
    after = START - 0.3 * slope(START, support)
    assert metrics["query/loss"].item() == pytest.approx(bowl({"w": after}, query).item())
    assert metrics["query/loss_before"].item() == pytest.approx(bowl({"w": START}, query).item())


@pytest.mark.parametrize("optimizer", [sgd(0.1), adam(0.1)])
def test_reptile_does_not_change_parameters_that_do_not_adapt(optimizer: object) -> None:
    loop = InnerLoop(
        lambda p, batch: bowl({"w": p["w"] * p["slow"] + p["rows"]}, batch),
        optimizer,
        fast=lambda name: name != "slow",
        per_step=frozenset({"rows"}),
        num_steps=3,
    )
    model = {"w": START, "slow": randn(SIZE, seed=1), "rows": randn(3, SIZE, seed=2)}
    gradient, _ = reptile(loop, query_loss(loop.loss))(
        loop.init(model), Task((random_bowl(0),), random_bowl(1))
    )
    assert gradient.model["w"].ne(0).all()
    assert gradient.model["slow"].eq(0).all()
    assert gradient.model["rows"].eq(0).all()
    assert [g.shape for g in gradient.model.values()] == [p.shape for p in model.values()]


def test_reptile_rejects_learned_rates() -> None:
    loop = InnerLoop(bowl, meta_sgd(0.1), num_steps=1)
    with pytest.raises(ValueError, match="without learned hyperparameters, such as sgd"):
        reptile(loop, query_loss(bowl))(
            loop.init({"w": START}), Task((random_bowl(0),), random_bowl(1))
        )


def with_metrics(params: Params, batch: Bowl) -> tuple[Tensor, Metrics]:
    return bowl(params, batch), {"width": params["w"].norm()}


PATH = [{"w": randn(SIZE, seed=seed)} for seed in range(4)]
TASK = Task((random_bowl(0),), random_bowl(1))
LOSSES = [bowl(params, TASK.query).item() for params in PATH]


def test_outer_loss_uses_the_last_parameters() -> None:
    total, metrics = query_loss(bowl)(PATH, TASK)
    assert total.item() == LOSSES[-1]
    found = {name: value.item() for name, value in metrics.items()}
    assert found == {"query/loss_before": LOSSES[0], "query/loss": LOSSES[-1]}


def test_outer_loss_prefixes_the_query_metrics() -> None:
    total, metrics = query_loss(with_metrics, has_aux=True, before=False)(PATH, TASK)
    assert total.item() == LOSSES[-1]
    found = {name: value.item() for name, value in metrics.items()}
    assert found == {"query/width": PATH[-1]["w"].norm().item(), "query/loss": LOSSES[-1]}


def test_multi_step_loss_weights_the_losses_after_every_step() -> None:
    weights = (0.5, 0.2, 0.3)
    total, metrics = query_loss(with_metrics, has_aux=True)(
        PATH, TASK, torch.tensor(weights, dtype=torch.float64)
    )
    expected = sum(w * loss for w, loss in zip(weights, LOSSES[1:], strict=True))
    assert total.item() == pytest.approx(expected, rel=1e-14)
    assert metrics["query/loss"].item() == LOSSES[-1]


def test_multi_step_loss_requires_one_weight_per_step() -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is longer"):
        query_loss(bowl)(PATH, TASK, torch.tensor([0.5, 0.5]))


def test_backprop_without_inner_steps_is_joint_training() -> None:
    loop = InnerLoop(bowl, sgd(0.1), num_steps=0)
    for support in ((), (random_bowl(0),)):
        task = Task(support, TASK.query)
        gradient, metrics = backprop(loop, query_loss(bowl))(loop.init({"w": START}), task)
        assert_close(gradient.model["w"], slope(START, TASK.query), rtol=1e-12, atol=1e-14)
        assert metrics["query/loss_before"] == metrics["query/loss"]


@pytest.mark.parametrize("first_order", [False, True])
def test_proximal_term_pulls_every_step_to_the_initialization(first_order: bool) -> None:
    (hessian, center), query = random_bowl(0), random_bowl(1)
    loop = InnerLoop(bowl, sgd(0.1), num_steps=3, proximal=2.0, first_order=first_order)
    meta, task = loop.init({"w": START}), Task(((hessian, center),), query)
    start = START.clone().requires_grad_()
    w = start
    for _ in range(3):
        grad = hessian @ (w - center)
        w = w - 0.1 * ((grad.detach() if first_order else grad) + 2.0 * (w - start))
    (expected,) = torch.autograd.grad(bowl({"w": w}, query), start)
    gradient, _ = backprop(loop, query_loss(bowl))(meta, task)
    assert relative_error(gradient, MetaParams({"w": expected}, {})) < 1e-12
    assert relative_error(loop.adapt(meta, task.support)["w"], w.detach()) < 1e-14
    assert tree.leaves(gradient.inner) == []


def test_start_can_consume_a_batch_and_the_steps_repeat_the_remaining_one() -> None:
    def start(params: Params, batches: tuple[Bowl, ...]) -> tuple[Params, tuple[Bowl, ...]]:
        return {"w": params["w"] + batches[0][1]}, batches[1:]

    loop = InnerLoop(bowl, sgd(0.1), num_steps=2, start=start)
    first, second = random_bowl(0), random_bowl(1)
    path = loop.path(loop.init({"w": START}), (first, second))
    expected = [START + first[1]]
    for _ in range(2):
        expected.append(expected[-1] - 0.1 * slope(expected[-1], second))
    assert_close([params["w"] for params in path], expected, rtol=1e-12, atol=1e-14)
