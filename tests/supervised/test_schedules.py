"""Schedules, and their values in each iteration."""

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    MetaLearner,
    Params,
    Task,
    backprop,
    gradient_learner,
    query_loss,
    sgd,
    tree,
)
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import make_learner, make_model
from metarl.nn.dense import mlp
from metarl.supervised.losses import squared_error
from metarl.supervised.schedules import (
    SCHEDULES,
    cosine_schedule,
    linear_schedule,
    multi_step_weights,
)
from tests.support.problems import randn, seeded


@pytest.mark.parametrize("steps", [2, 5])
def test_multi_step_weights_match_the_code_of_the_paper(steps: int) -> None:
    epochs = 15
    for epoch in range(epochs):
        early = max(1 / steps - epoch / (steps * epochs), 0.03 / steps)
        last = min(
            1 / steps + epoch * (steps - 1) / (steps * epochs), 1 - (steps - 1) * 0.03 / steps
        )
        weights = multi_step_weights(steps, epoch / epochs)
        assert weights == pytest.approx((early,) * (steps - 1) + (last,), rel=1e-12)


def test_multi_step_weights_start_equal_and_sum_to_one() -> None:
    assert multi_step_weights(5, 0.0) == pytest.approx((0.2,) * 5)
    for progress in (0.0, 0.3, 0.96, 0.99, 0.9999):
        assert sum(multi_step_weights(5, progress) or ()) == pytest.approx(1)


def test_multi_step_weights_have_a_minimum_until_annealing_ends() -> None:
    assert multi_step_weights(5, 0.999) == pytest.approx((0.006,) * 4 + (0.976,))
    assert multi_step_weights(5, 1.0) is None
    assert multi_step_weights(5, 7.0) is None


@pytest.mark.parametrize("steps", [0, 1])
def test_one_step_has_no_weights(steps: int) -> None:
    assert multi_step_weights(steps, 0.0) is None


def test_schedules_run_from_start_to_end() -> None:
    for schedule in (cosine_schedule, linear_schedule):
        assert schedule(0.8, 0.2, 0.0) == pytest.approx(0.8)
        assert schedule(0.8, 0.2, 0.5) == pytest.approx(0.5)
        assert schedule(0.8, 0.2, 1.0) == pytest.approx(0.2)
        assert schedule(0.8, 0.2, 2.0) == pytest.approx(0.2)
    assert cosine_schedule(1.0, 0.0, 0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert linear_schedule(1.0, 0.0, 0.25) == 0.75
    assert SCHEDULES["constant"](0.8, 0.2, 0.9) == 0.8


def length(params: Params, center: torch.Tensor) -> torch.Tensor:
    return ((params["w"] - center) ** 2).sum() / 2


START = torch.tensor([3.0, -0.5], dtype=torch.float64)
ORIGIN = Task((), torch.zeros(1, 2, dtype=torch.float64))


def descent(**options: Any) -> MetaLearner:
    loop = InnerLoop(length, sgd(0.1), num_steps=0)
    optimizer = options.pop("optimizer", torch.optim.SGD)
    return gradient_learner(loop, backprop(loop, query_loss(length)), optimizer, **options)


def test_a_step_uses_the_rate_of_its_learner() -> None:
    state = descent(lr=0.5).init({"w": START})
    state, _ = descent(lr=0.5).step(state, ORIGIN)
    assert_close(state.params.model["w"], 0.5 * START)
    state, _ = descent(lr=0.1).step(state, ORIGIN)
    assert_close(state.params.model["w"], 0.45 * START)


def test_parameters_can_have_different_step_sizes() -> None:
    def apart(params: Params, center: torch.Tensor) -> torch.Tensor:
        return sum((((p - center) ** 2).sum() / 2 for p in params.values()), center.sum() * 0)

    loop = InnerLoop(apart, sgd(0.1), num_steps=0)
    share = {"still": 0.0, "slow": 0.1, "plain": 1.0, "also slow": 0.1}
    estimator, names = backprop(loop, query_loss(apart)), [*share]
    one, two = (
        gradient_learner(loop, estimator, torch.optim.SGD, lr=rate, factor=share.__getitem__)
        for rate in (0.5, 0.2)
    )
    state = one.init({name: (index + 1) * START for index, name in enumerate(names)})
    state, _ = two.step(one.step(state, ORIGIN)[0], ORIGIN)
    for index, name in enumerate(names):
        left = (1 - 0.5 * share[name]) * (1 - 0.2 * share[name])
        assert_close(state.params.model[name], left * (index + 1) * START)


def test_moments_are_kept_between_learners() -> None:
    rates = (0.1, 0.05, 0.01)
    state = descent(optimizer=torch.optim.Adam, lr=rates[0]).init({"w": START})
    theirs = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs])
    for rate in rates:
        state, _ = descent(optimizer=torch.optim.Adam, lr=rate).step(state, ORIGIN)
        theirs.grad = theirs.detach().clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert_close(state.params.model["w"], theirs.detach())


def test_clipping_applies_to_every_element_of_the_mean_gradient() -> None:
    learner = descent(lr=1.0, clip=1.0)
    tasks = Task((), torch.tensor([[6.0, 0.0], [-6.0, 0.0]], dtype=torch.float64))
    state, metrics = learner.step(learner.init({"w": START}), tasks)
    assert_close(state.params.model["w"], START - torch.tensor([1.0, -0.5]).double())
    assert metrics["gradient/outer"].item() == pytest.approx(START.norm().item())


def trained_rate(iteration: int, **given: Any) -> float:
    """Return the outer rate of an iteration, measured by the change of the parameters."""
    config = SupervisedConfig(iterations=4, outer="sgd", mode="eager", **given)
    settings = {"inner_steps": 0, "inner_lr": 0.1, "outer_lr": 0.8, "num_tasks": 2}
    config = resolve(config, {"": settings})
    module = mlp((2, 1), generator=seeded(0)).double()
    model = make_model(config, module, squared_error)
    learner = make_learner(config, model)(iteration)
    state = learner.init(model.params)
    before = tree.map_leaves(torch.clone, state.params)
    tasks = Task((), (randn(2, 5, 2), randn(2, 5, 1, seed=1)))
    state, metrics = learner.step(state, tasks)
    moved = tree.norm(tree.add(state.params, before, scale=-1.0))
    return (moved / metrics["gradient/outer"]).item()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.65, 0.5, 0.35]),
        ("cosine", [0.8, 0.5 + 0.3 * math.sqrt(0.5), 0.5, 0.5 - 0.3 * math.sqrt(0.5)]),
    ],
)
def test_iterations_follow_the_schedule(schedule: str, rates: list[float]) -> None:
    end = {} if schedule == "constant" else {"outer_lr_end": 0.2}
    found = [trained_rate(iteration, outer_schedule=schedule, **end) for iteration in (1, 2, 3, 4)]
    assert found == pytest.approx(rates)
