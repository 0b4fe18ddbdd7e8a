"""The trust-region step: updates, rejected steps and invariances."""

import weakref
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from metarl.core import MetaParams, Task, tree
from metarl.rl.baseline import advantages
from metarl.rl.episodes import Episodes, Rollout
from metarl.rl.objective import Linearization, PostAdaptationObjective
from metarl.rl.trpo import maml_trpo, trust_region_step
from tests.support.problems import fill_padding, problem, relative_error
from tests.support.reference_losses import (
    double_backward,
    plain_gradient,
    plain_kl,
    plain_sum,
    plain_surrogate,
)


def test_chunks_and_task_order_do_not_change_the_step() -> None:
    objective, meta, tasks = problem(first_order=True)
    options = {
        "cg_steps": 5
    }  # more steps amplify rounding errors of the different summation orders
    new, metrics = trust_region_step(objective, meta, tasks, **options)
    permuted = tree.map_leaves(lambda x: x[[2, 0, 1]], tasks)
    for batch, chunk_size in ((tasks, 1), (tasks, 2), (permuted, None)):
        again, same = trust_region_step(objective, meta, batch, chunk_size=chunk_size, **options)
        assert relative_error(again, new) < 1e-10
        assert_close(same, metrics, rtol=1e-8, atol=1e-10)


def test_the_gradient_keeps_no_residuals_with_a_fisher_fraction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The residuals of all tasks were in memory at the same time, nine gigabytes with images."""
    products: list[weakref.ref[Any]] = []
    alive: list[int] = []
    original = PostAdaptationObjective.linearize

    def linearize(self: PostAdaptationObjective, meta: MetaParams, part: Task) -> Linearization:
        alive.append(sum(product() is not None for product in products))
        found = original(self, meta, part)
        if part.query.mask.shape[2] == episodes:
            products.append(weakref.ref(found.fisher))
        return found

    monkeypatch.setattr(PostAdaptationObjective, "linearize", linearize)
    objective, meta, tasks = problem(num_tasks=8)
    episodes = tasks.query.mask.shape[2]
    trust_region_step(objective, meta, tasks, fisher_fraction=0.5, chunk_size=1)
    assert len(products) == 8
    assert max(alive) <= torch.get_num_threads()


def test_fisher_fraction_of_repeated_episodes_equals_the_full_fisher() -> None:
    objective, meta, tasks = problem(first_order=True)
    twice = tree.map_leaves(lambda x: torch.cat([x, x], 2), tasks)
    options = {"cg_steps": 5}
    new, metrics = trust_region_step(objective, meta, twice, **options)
    half, same = trust_region_step(objective, meta, twice, fisher_fraction=0.5, **options)
    assert relative_error(half, new) < 1e-10
    assert_close(same, metrics, rtol=1e-8, atol=1e-10)
    other, _ = trust_region_step(objective, meta, tasks, fisher_fraction=0.5, **options)
    assert relative_error(other, new) > 1e-4


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("max_kl", [1e-3, 0.1])
def test_step_lowers_the_surrogate_inside_the_trust_region(kind: str, max_kl: float) -> None:
    objective, meta, tasks = problem(kind)
    new, metrics = trust_region_step(objective, meta, tasks, max_kl=max_kl)
    before, after = (plain_sum(objective, m, tasks, plain_surrogate) / 3 for m in (meta, new))
    kl = plain_sum(objective, new, tasks, plain_kl) / 3
    assert after < before
    assert 0.1 * max_kl < kl <= max_kl
    assert_close(metrics["trpo/improvement"], (before - after).detach())
    assert_close(metrics["trpo/kl"], kl.detach())
    assert all(a.ne(b).any() for a, b in zip(tree.leaves(new), tree.leaves(meta), strict=True))


def test_small_step_is_the_natural_gradient_of_length_max_kl() -> None:
    objective, meta, tasks = problem()
    new, _ = trust_region_step(objective, meta, tasks, max_kl=1e-8, cg_steps=30)
    step = tree.add(new, meta, scale=-1.0)
    image = tree.scale(double_backward(objective, meta, tasks, step), 1 / 3)
    gradient = tree.scale(plain_gradient(objective, meta, tasks), 1 / 3)
    assert_close(
        tree.dot(step, image) / 2, torch.tensor(1e-8, dtype=torch.float64), rtol=0.01, atol=0
    )
    cosine = tree.dot(image, gradient) / tree.norm(image) / tree.norm(gradient)
    assert cosine < -0.999


def with_query(tasks: Task, **fields: Any) -> Task:
    return tasks._replace(query=tasks.query._replace(**fields))


def test_parameters_are_kept_if_the_surrogate_cannot_improve() -> None:
    objective, meta, tasks = problem()
    flat = with_query(tasks, advantages=torch.zeros_like(tasks.query.advantages))
    new, metrics = trust_region_step(objective, meta, flat)
    assert new is meta
    assert metrics["trpo/step_fraction"] == metrics["trpo/improvement"] == 0


def test_steps_outside_of_the_trust_region_are_rejected() -> None:
    objective, meta, tasks = problem()
    new, metrics = trust_region_step(objective, meta, tasks, max_kl=1e3, backtracks=1)
    assert new is meta
    assert metrics["trpo/kl"] == 0


def test_nan_rewards_stop_the_update() -> None:
    objective, meta, tasks = problem()
    rewards = tasks.query.rewards.clone()
    rewards[1, 0, 0] = torch.nan
    rollout = Rollout(*with_query(tasks, rewards=rewards).query[:5], ~tasks.query.mask)
    query, _ = torch.func.vmap(advantages())(rollout)
    with pytest.raises(FloatingPointError, match="nan"):
        trust_region_step(objective, meta, tasks._replace(query=query))


@pytest.mark.parametrize("field", Episodes._fields[:3] + Episodes._fields[4:])
def test_values_in_the_padding_do_not_matter(field: str) -> None:
    objective, meta, tasks = problem()
    spoilt = Task(
        tuple(fill_padding(batch, torch.nan, fields=[field]) for batch in tasks.support),
        fill_padding(tasks.query, torch.nan, fields=[field]),
    )
    expected, _ = trust_region_step(objective, meta, tasks)
    actual, _ = trust_region_step(objective, meta, spoilt)
    assert relative_error(actual, expected) < 1e-12


def test_learner_steps_and_adapts() -> None:
    objective, meta, tasks = problem(optimizer="sgd", steps=0)
    learner = maml_trpo(objective.policy, objective.loop, max_kl=0.02)
    state, metrics = learner.step(learner.init(meta.model), tasks)
    expected, _ = trust_region_step(objective, meta, tasks, max_kl=0.02)
    assert relative_error(state.params, expected) == 0
    assert metrics["trpo/kl"] > 0.002
    assert learner.adapt(state.params, ()) == state.params.model


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_invalid_fisher_fractions_raise_an_error(fraction: float) -> None:
    objective, meta, tasks = problem()
    with pytest.raises(ValueError, match="fisher_fraction must be greater than 0 and at most 1"):
        trust_region_step(objective, meta, tasks, fisher_fraction=fraction)
