"""Functions run on the device of their inputs: CPU tensors raise on the meta device."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.core import backprop, meta_gradient, query_loss, tree
from metarl.core.linalg import conjugate_gradient
from metarl.nn.norms import LayerNorm
from metarl.rl.baseline import advantages
from metarl.rl.episodes import Rollout, mean_return
from metarl.rl.losses import INNER_LOSSES, mean_kl, surrogate
from metarl.rl.objective import PostAdaptationObjective
from tests.support.problems import at_once, problem, random_like, relative_error, task_of


def move(values: Any, device: str) -> Any:
    return tree.map_leaves(lambda x: x.to(device), values)


def assert_on_meta(values: Any) -> None:
    found = tree.leaves(values)
    assert found
    assert all(x.device.type == "meta" for x in found)


kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])


@kinds
@pytest.mark.parametrize("optimizer", ["sgd", "meta_sgd"])
@pytest.mark.parametrize("first_order", [False, True])
def test_inner_loop_and_meta_gradient_follow_their_inputs(
    kind: str, optimizer: str, first_order: bool
) -> None:
    objective, meta, tasks = move_problem(kind, optimizer, first_order)
    loop = objective.loop
    assert_on_meta(loop.init(meta.model))
    assert_on_meta(loop.path(meta, task_of(tasks, 0).support))
    assert_on_meta(meta_gradient(backprop(loop, query_loss(loop.loss)), meta, tasks))


def move_problem(kind: str, optimizer: str = "sgd", first_order: bool = False) -> Any:
    objective, meta, tasks = problem(kind, optimizer, first_order=first_order)
    return objective, move(meta, "meta"), move(tasks, "meta")


@kinds
def test_losses_and_distributions_follow_their_inputs(kind: str) -> None:
    objective, meta, tasks = move_problem(kind)
    query = task_of(tasks, 0).query
    distribution = objective.policy(meta.model, query.observations)
    assert_on_meta([surrogate(distribution, query), mean_kl(distribution, query)])
    assert_on_meta(
        [estimator(objective.policy)(meta.model, query) for estimator in INNER_LOSSES.values()]
    )
    assert_on_meta([distribution.entropy(), distribution.mode(), distribution.fisher(distribution)])
    assert_on_meta(at_once(objective.policy, tree.expand(meta.model, 3), tasks.query.observations))


@kinds
def test_fisher_products_follow_their_inputs(kind: str) -> None:
    objective, meta, tasks = move_problem(kind, "meta_sgd")
    assert_on_meta(objective.products(meta, tasks, meta))
    assert_on_meta(objective(meta, task_of(tasks, 0)))


def test_advantages_follow_their_inputs() -> None:
    _, _, tasks = move_problem("gaussian")
    rollout = Rollout(*tasks.query[:5], ~tasks.query.mask)
    assert_on_meta(torch.func.vmap(advantages(gae_lambda=0.95))(rollout))
    assert_on_meta(mean_return(rollout))


def test_conjugate_gradient_and_layer_norm_follow_their_inputs() -> None:
    target = {"a": torch.ones(3, device="meta"), "b": torch.ones(2, 2, device="meta")}
    assert_on_meta(conjugate_gradient(lambda x: tree.scale(x, 2.0), target, steps=3))
    assert_on_meta(LayerNorm(3).to("meta")(torch.ones(2, 3, device="meta")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@kinds
def test_gradients_on_cuda_are_those_on_the_cpu(kind: str) -> None:
    objective, meta, tasks = problem(kind)
    single = lambda x: x.float() if x.is_floating_point() else x  # noqa: E731
    meta, tasks = tree.map_leaves(single, (meta, tasks))
    vector, estimator = random_like(meta), backprop(objective.loop, query_loss(objective.loop.loss))
    fresh = PostAdaptationObjective(objective.policy, objective.loop)

    def results(device: str) -> tuple[Any, Tensor, Any, Any]:
        at, batch, v = (move(x, device) for x in (meta, tasks, vector))
        gradient, _ = meta_gradient(estimator, at, batch)
        at_old = fresh.linearize(at, batch)
        return move((gradient, at_old.surrogate, at_old.gradient, at_old.fisher(v)), "cpu")

    for on_cuda, on_cpu in zip(results("cuda"), results("cpu"), strict=True):
        assert relative_error(on_cuda, on_cpu) < 1e-4
