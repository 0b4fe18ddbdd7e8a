"""The objective's surrogate, gradient and Fisher product against plain autograd."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from metarl.core import InnerLoop, MetaParams, sgd, tree
from metarl.nn.norms import LayerNorm
from metarl.rl.distributions import Categorical, Gaussian
from metarl.rl.losses import reinforce
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import Policy
from tests.support.problems import LR, problem, random_like, random_meta_batch, relative_error
from tests.support.reference_losses import (
    dense_product,
    double_backward,
    plain_gradient,
    plain_sum,
    plain_surrogate,
)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "meta_sgd"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_products_match_plain_autograd(
    kind: str, optimizer: str, steps: int, first_order: bool
) -> None:
    objective, meta, tasks = problem(kind, optimizer, steps, first_order=first_order)
    vector = random_like(meta, seed=2)
    surrogate, gradient, image = objective.products(meta, tasks, vector)
    assert_close(surrogate, plain_sum(objective, meta, tasks, plain_surrogate).detach())
    assert relative_error(gradient, plain_gradient(objective, meta, tasks)) < 1e-10
    assert relative_error(image, double_backward(objective, meta, tasks, vector)) < 1e-10


@pytest.mark.parametrize(("kind", "steps"), [("gaussian", 1), ("categorical", 1), ("gaussian", 0)])
def test_fisher_product_matches_the_dense_hessian_of_the_kl(kind: str, steps: int) -> None:
    objective, meta, tasks = problem(kind, steps=steps, num_tasks=2)
    vector = random_like(meta, seed=2)
    _, _, image = objective.products(meta, tasks, vector)
    assert relative_error(image, dense_product(objective, meta, tasks, vector)) < 1e-10


@pytest.mark.parametrize(
    ("kind", "optimizer", "steps"),
    [
        ("gaussian", "sgd", 0),
        ("gaussian", "meta_sgd", 1),
        ("categorical", "sgd", 3),
    ],
)
def test_staged_products_equal_eager_products(kind: str, optimizer: str, steps: int) -> None:
    objective, meta, tasks = problem(kind, optimizer, steps)
    vector = random_like(meta, seed=2)
    surrogate, gradient, image = objective.products(meta, tasks, vector)
    at_old = objective.linearize(meta, tasks)
    for _ in range(2):  # the second product must not depend on the first
        assert relative_error(at_old.fisher(vector), image) < 1e-12
    assert relative_error(at_old.gradient, gradient) < 1e-12
    assert_close(at_old.surrogate, surrogate)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_staged_values_equal_eager_values(kind: str, chunk: int) -> None:
    objective, meta, tasks = problem(kind, num_tasks=3)
    part = tree.map_leaves(lambda x: x[:chunk], tasks)
    values = objective.values(meta, part)
    for seed in range(2):
        at = tree.add(meta, random_like(meta, seed=seed), scale=0.1)
        expected = torch.func.vmap(lambda task, at=at: objective(at, task))(part)
        assert_close(values(at), [value.sum() for value in expected], rtol=1e-12, atol=1e-14)


def test_chunks_with_equal_shapes_share_a_staged_program() -> None:
    objective, meta, tasks = problem("categorical", steps=0, num_tasks=4)
    vector = random_like(meta, seed=2)
    for index in range(4):
        chunk = tree.map_leaves(lambda x, i=index: x[i : i + 1], tasks)
        _, gradient, image = objective.products(meta, chunk, vector)
        at_old = objective.linearize(meta, chunk)
        assert relative_error(at_old.gradient, gradient) < 1e-12
        assert relative_error(at_old.fisher(vector), image) < 1e-12
    assert len(objective._programs) == 1


class TinyPolicy(nn.Module):
    """A policy with the given layers: Gaussian with a fixed std, or categorical."""

    def __init__(self, *layers: nn.Module, fixed_std: bool = False) -> None:
        super().__init__()
        self.layers, self.fixed_std = nn.Sequential(*layers), fixed_std

    def forward(self, observations: Tensor) -> Gaussian | Categorical:
        outputs = self.layers(observations)
        return (
            Gaussian(outputs, torch.zeros_like(outputs)) if self.fixed_std else Categorical(outputs)
        )


def objective_of(module: nn.Module) -> tuple[PostAdaptationObjective, MetaParams]:
    policy, params = Policy.of(module.double())
    loop = InnerLoop(reinforce(policy), sgd(LR), num_steps=1)
    return PostAdaptationObjective(policy, loop), loop.init(random_like(params))


def assert_fisher_is_exact(module: nn.Module) -> None:
    objective, meta = objective_of(module)
    tasks = random_meta_batch(objective.policy, objective.loop, meta)
    vector = random_like(meta, seed=2)
    expected = double_backward(objective, meta, tasks, vector)
    assert relative_error(objective.products(meta, tasks, vector)[2], expected) < 1e-10


def test_fused_layer_norm_is_rejected_by_name() -> None:
    wanted = r"layers\.0 \(LayerNorm\).*metarl\.nn\.norms\.LayerNorm"
    with pytest.raises(ValueError, match=wanted):
        objective_of(TinyPolicy(nn.LayerNorm(3), nn.Linear(3, 2)))


def test_layer_norm_of_the_package_is_exact() -> None:
    assert_fisher_is_exact(TinyPolicy(LayerNorm(3), nn.Linear(3, 2)))


def test_policies_with_a_fixed_std_have_a_fisher_product() -> None:
    assert_fisher_is_exact(TinyPolicy(nn.Linear(3, 2), fixed_std=True))
