"""Inner optimizers: learned rates, Adam and composition."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    InnerOptimizer,
    MetaParams,
    Params,
    Task,
    adam,
    backprop,
    chain,
    clip_norm,
    lslr,
    meta_curvature,
    meta_sgd,
    query_loss,
    sgd,
    tree,
)
from tests.support.problems import randn, random_like, relative_error


PARAMS = {"w": randn(3, 2), "b": randn(3, seed=1)}
ONE: Params = {"x": torch.ones(1, dtype=torch.float64)}


def gradients(step: int) -> Params:
    return random_like(PARAMS, seed=10 + step)


def updates(optimizer: InnerOptimizer, constants: Params, *, steps: int) -> list[Params]:
    """Return the update of each step for fixed gradients."""
    state, found = optimizer.state(PARAMS), []
    for step in range(steps):
        update, state = optimizer.update(constants, gradients(step), state, step)
        found.append(update)
    return found


def times(factors: Params | float, grads: Params) -> Params:
    if isinstance(factors, float):
        return tree.scale(grads, factors)
    return {name: factors[name] * g for name, g in grads.items()}


def test_meta_sgd_has_one_rate_per_element() -> None:
    optimizer = meta_sgd(0.1)
    rates = random_like(PARAMS, seed=2)
    constants = {f"lr.{name}": rate for name, rate in rates.items()}
    start = {f"lr.{name}": torch.full_like(p, 0.1) for name, p in PARAMS.items()}
    assert_close(optimizer.constants(PARAMS), start, rtol=0, atol=0)
    for step, update in enumerate(updates(optimizer, constants, steps=2)):
        assert_close(update, times(tree.scale(rates, -1.0), gradients(step)))


def test_lslr_has_one_rate_per_tensor_and_step_and_reuses_the_last_one() -> None:
    optimizer = lslr(0.1, steps=2)
    constants = {
        "lr.w": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "lr.b": torch.tensor([-3.0, 4.0], dtype=torch.float64),
    }
    start = {f"lr.{name}": torch.full((2,), 0.1, dtype=torch.float64) for name in PARAMS}
    assert_close(optimizer.constants(PARAMS), start, rtol=0, atol=0)
    found = updates(optimizer, constants, steps=3)
    for step, (w, b) in enumerate([(1.0, -3.0), (2.0, 4.0), (2.0, 4.0)]):
        assert_close(found[step]["w"], -w * gradients(step)["w"])
        assert_close(found[step]["b"], -b * gradients(step)["b"])


def test_tensors_of_a_group_share_rates() -> None:
    optimizer = lslr(0.5, steps=1, group=lambda name: "layer")
    assert list(optimizer.constants(PARAMS)) == ["lr.layer"]
    (update,) = updates(optimizer, {"lr.layer": torch.tensor([2.0])}, steps=1)
    assert_close(update, times(-2.0, gradients(0)))


@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.9, 0.99), (0.5, 0.0)])
def test_adam_matches_torch(betas: tuple[float, float]) -> None:
    params = {name: p.clone().requires_grad_() for name, p in PARAMS.items()}
    theirs = torch.optim.Adam(params.values(), lr=0.05, betas=betas, eps=1e-3)
    ours = adam(0.05, beta1=betas[0], beta2=betas[1], eps=1e-3)
    moved = PARAMS
    for step, update in enumerate(updates(ours, {}, steps=6)):
        for name, g in gradients(step).items():
            params[name].grad = g
        theirs.step()
        moved = tree.add(moved, update)
        assert_close(moved, tree.detach(params), rtol=1e-12, atol=1e-14)


def curve(params: Params, shift: Tensor) -> Tensor:
    return (torch.sin(params["w"] + shift).sum(1) * params["b"]).sum()


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_derivatives_through_adam_are_exact(beta1: float) -> None:
    loop = InnerLoop(curve, adam(0.1, beta1=beta1, beta2=0.9), num_steps=3)
    task = Task((randn(2, seed=3),), randn(2, seed=4))
    gradient, _ = backprop(loop, query_loss(curve))(loop.init(PARAMS), task)
    flat, unravel = tree.ravel(PARAMS)

    def objective(vector: Tensor) -> Tensor:
        """Return the parameters after three steps of Adam in plain autograd."""
        params, first, second = vector, 0.0, 0.0
        for step in range(1, 4):
            value = curve(unravel(params), task.support[0])
            (g,) = torch.autograd.grad(value, params, create_graph=True)
            first, second = beta1 * first + (1 - beta1) * g, 0.9 * second + 0.1 * g**2
            root = (second / (1 - 0.9**step)).sqrt() + 1e-8
            params = params - 0.1 * first / (1 - beta1**step) / root
        return curve(unravel(params), task.query)

    start = flat.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective(start), start)
    assert_close(tree.ravel(gradient.model)[0], expected, rtol=1e-9, atol=1e-12)


def test_adam_is_finite_for_zero_gradients() -> None:
    def loss(params: Params, batch: Tensor) -> Tensor:
        return (params["w"] * batch).square().sum() + 0 * params["dead"].sum()

    loop = InnerLoop(loss, adam(0.1, beta1=0.9), num_steps=3)
    meta = loop.init({"w": randn(2), "dead": randn(2, seed=1)})
    task = Task((torch.tensor([1.0, 0.0]).double(),), torch.ones(2).double())
    gradient, _ = backprop(loop, query_loss(loss))(meta, task)
    assert all(g.isfinite().all() for g in tree.leaves(gradient))
    assert_close(loop.adapt(meta, task.support)["dead"], meta.model["dead"], rtol=0, atol=0)
    assert gradient.model["dead"].eq(0).all()
    assert gradient.model["w"][1].item() == pytest.approx(2 * meta.model["w"][1].item())


def test_chain_passes_the_update_of_each_optimizer_to_the_next() -> None:
    halved = chain(sgd(0.5), sgd(0.2))
    assert_close(updates(halved, {}, steps=1)[0], times(-0.1, gradients(0)))
    scaled_adam = chain(adam(1.0), sgd(0.3))
    expected = [times(0.3, update) for update in updates(adam(1.0), {}, steps=3)]
    assert_close(updates(scaled_adam, {}, steps=3), expected)


@pytest.mark.parametrize("other", [meta_sgd(0.1), lslr(0.1, steps=2), meta_curvature(0.1)])
def test_rate_of_one_in_a_chain_has_no_effect(other: InnerOptimizer) -> None:
    constants = random_like(other.constants(PARAMS), seed=5)
    expected = updates(other, constants, steps=3)
    for place, chained in enumerate([chain(other, sgd(1.0)), chain(sgd(1.0), other)]):
        named = {f"{place}.{name}": value for name, value in constants.items()}
        assert list(chained.constants(PARAMS)) == list(named)
        assert_close(updates(chained, named, steps=3), expected)


def test_nested_chains_have_separate_constants_and_states() -> None:
    parts = (adam(0.3, beta1=0.5), lslr(0.7, steps=2), meta_curvature(0.2))
    flat, left, right = (
        chain(*parts),
        chain(chain(parts[0], parts[1]), parts[2]),
        chain(parts[0], chain(parts[1], parts[2])),
    )
    constants = random_like(flat.constants(PARAMS), seed=6)
    expected = updates(flat, constants, steps=3)
    for nested in (left, right):
        renamed = dict(zip(nested.constants(PARAMS), constants.values(), strict=True))
        assert_close(updates(nested, renamed, steps=3), expected)


def test_chains_of_more_than_ten_optimizers_have_distinct_names() -> None:
    chained = chain(*[lslr(1.0, steps=1)] * 12)
    constants = chained.constants(ONE)
    assert list(constants) == [f"{place}.lr.x" for place in range(12)]
    constants["1.lr.x"] = constants["1.lr.x"] * 3
    constants["11.lr.x"] = constants["11.lr.x"] * 5
    update, _ = chained.update(constants, ONE, chained.state(ONE), 0)
    assert update["x"].item() == -15


def test_constants_of_a_chain_receive_gradients() -> None:
    loop = InnerLoop(curve, chain(meta_curvature(1.0), lslr(0.1, steps=2)), num_steps=2)
    task = Task((randn(2, seed=3),), randn(2, seed=4))
    meta = loop.init(PARAMS)
    meta = MetaParams(meta.model, tree.add(meta.inner, random_like(meta.inner), scale=0.1))
    gradient, _ = backprop(loop, query_loss(curve))(meta, task)
    flat, unravel = tree.ravel(meta)

    def objective(vector: Tensor) -> float:
        trial = unravel(vector)
        return curve(loop.adapt(trial, task.support), task.query).item()

    slopes = [
        (objective(flat + shift) - objective(flat - shift)) / 2e-5
        for shift in 1e-5 * torch.eye(len(flat), dtype=flat.dtype)
    ]
    assert relative_error(tree.ravel(gradient)[0], torch.tensor(slopes).double()) < 1e-7


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sgd(-0.1), r"lr must be at least 0, got \(-0\.1,\)"),
        (lambda: sgd([]), "at least one step size, got none"),
        (lambda: sgd([0.1, -0.1]), "lr must be at least 0"),
        (lambda: meta_sgd(-0.1), r"at least 0, got -0\.1"),
        (lambda: meta_curvature(-0.1), r"at least 0, got -0\.1"),
        (lambda: adam(-1.0), "at least 0, got -1"),
        (lambda: adam(1.0, beta1=1.0), r"below 1, got 1\.0, 0\.999"),
        (lambda: adam(1.0, beta2=-0.1), r"below 1, got 0\.0, -0\.1"),
        (lambda: lslr(-1.0, steps=1), "at least 0, got -1"),
        (lambda: lslr(1.0, steps=0), "steps must be at least 1, got 0"),
        (lambda: clip_norm(0.0), "limit must be greater than 0, got 0"),
        (lambda: chain(), "at least one optimizer, got none"),
    ],
)
def test_invalid_settings_raise_an_error(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
