"""The inner loop and the meta-gradient, on supervised tasks, against plain autograd."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarl.core import (
    InnerLoop,
    LossFn,
    MetaParams,
    Params,
    Task,
    backprop,
    functional,
    gradient_learner,
    meta_gradient,
    meta_sgd,
    query_loss,
    sgd,
    tree,
)
from metarl.core.speed import Mode
from metarl.nn.dense import mlp
from metarl.nn.norms import LayerNorm
from tests.support.problems import (
    LR,
    OPTIMIZERS,
    randn,
    random_like,
    relative_error,
    seeded,
    task_of,
)
from tests.support.reference_losses import gradient, plain_path


def network(*layers: nn.Module) -> tuple[LossFn, Params]:
    """Build the loss of a small network and parameters for it."""
    apply, params = functional(
        nn.Sequential(*(layers or mlp((2, 5, 1), activation="tanh"))).double()
    )
    return lambda p, batch: F.mse_loss(apply(p, batch[0]), batch[1]), random_like(params, seed=1)


def random_tasks(*, steps: int, num_tasks: int = 3, inputs: int = 2, outputs: int = 1) -> Task:
    def batch(seed: int) -> tuple[Tensor, Tensor]:
        x = randn(num_tasks, 6, inputs, seed=seed)
        return x, x.sum(-1, keepdim=True).sin() + randn(num_tasks, 6, outputs, seed=seed + 100)

    return Task(tuple(batch(step) for step in range(steps)), batch(steps))


def plain_objective(loss: LossFn, meta: MetaParams, tasks: Task, first_order: bool) -> Tensor:
    losses = []
    for task in (task_of(tasks, i) for i in range(len(tasks.query[0]))):
        path = plain_path(loss, meta, task.support, lr=LR, first_order=first_order)
        losses.append(loss(path[-1], task.query))
    return torch.stack(losses).mean()


def plain_meta_gradient(
    loss: LossFn, meta: MetaParams, tasks: Task, *, first_order: bool = False
) -> MetaParams:
    return gradient(lambda at: plain_objective(loss, at, tasks, first_order), meta)


def central_differences(value: Callable[[MetaParams], Tensor], meta: MetaParams) -> MetaParams:
    flat, unravel = tree.ravel(meta)
    slopes = [
        (value(unravel(flat + shift)) - value(unravel(flat - shift))).detach() / 2e-5
        for shift in 1e-5 * torch.eye(len(flat), dtype=flat.dtype)
    ]
    return unravel(torch.stack(slopes))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "meta_sgd"])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_matches_a_plain_autograd_loop(
    steps: int, optimizer: str, first_order: bool
) -> None:
    loss, params = network()
    loop = InnerLoop(loss, OPTIMIZERS[optimizer](LR), num_steps=steps, first_order=first_order)
    meta, tasks = loop.init(params), random_tasks(steps=steps)
    gradient, metrics = meta_gradient(backprop(loop, query_loss(loss)), meta, tasks)
    expected = plain_meta_gradient(loss, meta, tasks, first_order=first_order)
    assert relative_error(gradient, expected) < 1e-10
    outer = plain_objective(loss, meta, tasks, first_order).item()
    assert metrics["query/loss"].item() == pytest.approx(outer, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "meta_sgd"])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_matches_central_differences(steps: int, optimizer: str) -> None:
    loss, params = network()
    loop = InnerLoop(loss, OPTIMIZERS[optimizer](LR), num_steps=steps)
    meta, tasks = loop.init(params), random_tasks(steps=steps, num_tasks=1)
    expected = central_differences(lambda m: plain_objective(loss, m, tasks, False), meta)
    gradient, _ = meta_gradient(backprop(loop, query_loss(loss)), meta, tasks)
    assert relative_error(gradient, expected) < 1e-6


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_gradient_is_the_query_gradient_at_the_adapted_parameters(steps: int) -> None:
    loss, params = network()
    loop = InnerLoop(loss, sgd(LR), num_steps=steps, first_order=True)
    meta, tasks = loop.init(params), random_tasks(steps=steps, num_tasks=1)
    task = task_of(tasks, 0)
    adapted = tree.detach(plain_path(loss, meta, task.support, lr=LR)[-1])
    expected = torch.func.grad(loss)(adapted, task.query)
    first, _ = meta_gradient(backprop(loop, query_loss(loss)), meta, tasks)
    assert relative_error(first.model, expected) < 1e-10
    exact = backprop(replace(loop, first_order=False), query_loss(loss))
    assert relative_error(first, meta_gradient(exact, meta, tasks)[0]) > 1e-2


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_maml_matches_the_closed_form_on_a_quadratic(steps: int) -> None:
    root, start, support, query = randn(4, 4), randn(4, seed=1), randn(4, seed=2), randn(4, seed=3)
    hessian = root @ root.mT

    def loss(params: Params, center: Tensor) -> Tensor:
        gap = params["w"] - center
        return gap @ hessian @ gap / 2

    loop = InnerLoop(loss, sgd(0.05), num_steps=steps)
    gradient, _ = backprop(loop, query_loss(loss))(loop.init({"w": start}), Task((support,), query))
    shrink = torch.linalg.matrix_power(torch.eye(4) - 0.05 * hessian, steps)
    expected = shrink @ hessian @ (support + shrink @ (start - support) - query)
    torch.testing.assert_close(gradient.model["w"], expected, rtol=1e-12, atol=1e-12)


def test_chunks_and_task_order_do_not_change_the_gradient() -> None:
    loss, params = network()
    loop = InnerLoop(loss, meta_sgd(LR), num_steps=2)
    meta, tasks = loop.init(params), random_tasks(steps=2, num_tasks=5)
    estimator = backprop(loop, query_loss(loss))
    whole, metrics = meta_gradient(estimator, meta, tasks)
    permuted = tree.map_leaves(lambda x: x[[4, 2, 0, 1, 3]], tasks)
    for batch, chunk_size in ((tasks, 1), (tasks, 2), (tasks, 5), (permuted, None), (permuted, 3)):
        gradient, same = meta_gradient(estimator, meta, batch, chunk_size=chunk_size)
        assert relative_error(gradient, whole) < 1e-10
        assert relative_error(same, metrics) < 1e-10


def test_meta_sgd_starts_as_sgd_and_learns_its_rates() -> None:
    loss, params = network()
    tasks = random_tasks(steps=2)
    results = []
    for optimizer in (sgd(LR), meta_sgd(LR)):
        loop = InnerLoop(loss, optimizer, num_steps=2)
        results.append(meta_gradient(backprop(loop, query_loss(loss)), loop.init(params), tasks)[0])
    plain, learned = results
    assert relative_error(learned.model, plain.model) < 1e-14
    assert plain.inner == {}
    assert set(learned.inner) == {f"lr.{name}" for name in params}
    assert all(g.ne(0).all() for g in tree.leaves(learned.inner))


def test_layer_norm_is_exact_with_the_gradient_outside_of_vmap() -> None:
    loss, params = network(nn.Linear(2, 4), LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
    loop = InnerLoop(loss, sgd(LR), num_steps=2)
    meta, tasks = loop.init(params), random_tasks(steps=2)

    def outer(meta: MetaParams) -> Tensor:
        per_task = lambda task: loss(loop.adapt(meta, task.support), task.query)  # noqa: E731
        return torch.func.vmap(per_task)(tasks).mean()

    expected = plain_meta_gradient(loss, meta, tasks)
    assert relative_error(torch.func.grad(outer)(meta), expected) < 1e-10
    inside, _ = meta_gradient(backprop(loop, query_loss(loss)), meta, tasks)
    assert relative_error(inside, expected) < 1e-10


def test_learner_fits_sinusoids() -> None:
    apply, params = functional(mlp((1, 32, 32, 1), generator=seeded(0)))
    loss = lambda p, batch: F.mse_loss(apply(p, batch[0]), batch[1])  # noqa: E731
    loop = InnerLoop(loss, sgd(0.01), num_steps=1)
    estimator = backprop(loop, query_loss(loss))
    learner = gradient_learner(loop, estimator, torch.optim.Adam, chunk_size=16, lr=1e-2)
    generator, losses = seeded(1), []
    state = learner.init(params)
    for _ in range(80):
        phase, x = torch.rand(2, 16, 10, 1, generator=generator)
        batch = (10 * x - 5, torch.sin(10 * x - 5 + 3 * phase[:, :1]))
        state, metrics = learner.step(
            state, Task((tree.map_leaves(lambda v: v[:, :5], batch),), batch)
        )
        losses.append(metrics["query/loss"].item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_learner_rejects_a_non_finite_gradient_and_stays_unchanged() -> None:
    loss, params = network()
    loop = InnerLoop(loss, sgd(1e200), num_steps=2)
    learner = gradient_learner(loop, backprop(loop, query_loss(loss)), torch.optim.SGD, lr=0.1)
    state = learner.init(params)
    with pytest.raises(FloatingPointError, match="learning rate"):
        learner.step(state, random_tasks(steps=2))
    assert relative_error(state.params.model, params) == 0


@pytest.mark.parametrize("mode", ["eager", "traced"])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_second_order_gradients_through_fused_attention(chunk_size: int | None, mode: Mode) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    apply, params = functional(layer.double())

    def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(apply(params, batch[0]), batch[1])

    tasks = Task(
        ((randn(3, 2, 5, 4), randn(3, 2, 5, 4, seed=1)),), (randn(3, 2, 5, 4, seed=2),) * 2
    )
    meta = MetaParams(random_like(params, seed=1), {})
    loop = InnerLoop(loss, sgd(LR), num_steps=2)
    gradient = backprop(loop, query_loss(loss))
    found, _ = meta_gradient(gradient, meta, tasks, chunk_size=chunk_size, mode=mode)
    with sdpa_kernel(SDPBackend.MATH):  # the plain loop takes one step on each batch
        expected = plain_meta_gradient(loss, meta, tasks._replace(support=tasks.support * 2))
    assert relative_error(found, expected) < 1e-12
    assert torch.backends.cuda.flash_sdp_enabled()  # the choice of the user is restored
