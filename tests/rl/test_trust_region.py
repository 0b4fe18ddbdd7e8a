"""Meta-RL in a trust region against plain autograd: E-MAML, CAVIA, learned inner optimizers."""

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from metarl.core import MetaParams, MetaState, Task, tree
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.trpo import e_maml, exploration, maml_trpo, standardize_rewards
from tests.support.problems import at_once, random_like, relative_error
from tests.support.reference_losses import attached, happened
from tests.support.reference_rl import (
    CONTEXT,
    EXACT,
    LEARNED,
    Case,
    build,
    draw_tasks,
    each_task,
    mean,
    moved,
    plain_adapted_kl,
    plain_gradient,
    plain_kl_product,
    plain_objective,
    plain_path,
)


kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
counts = pytest.mark.parametrize("steps", [1, 2])


@kinds
@counts
@pytest.mark.parametrize("first_order", [False, True])
def test_exploration_term_of_e_maml_credits_the_first_episodes(
    first_order: bool, steps: int, kind: str
) -> None:
    case = Case(kind, steps=steps, first_order=first_order)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    standardized = standardize_rewards(tasks)
    objective = PostAdaptationObjective(policy, loop, exploration(policy))
    expected = plain_gradient(case, meta, tasks, explore=True)
    loss, gradient, _ = objective.products(meta, standardized, random_like(meta))
    assert relative_error(mean(gradient), expected) < 1e-10
    assert relative_error(expected, plain_gradient(case, meta, tasks)) > 0.01
    assert_close(mean(loss), plain_objective(case, attached(meta), tasks, explore=True).detach())
    for at in (meta, moved(meta)):  # compared by the line search
        values, kls = vmap(lambda task, at=at: objective(at, task))(standardized)
        wanted = plain_objective(case, attached(at), tasks, explore=True).detach()
        assert_close(values.mean(), wanted, **EXACT)
        assert_close(kls.mean(), plain_adapted_kl(case, attached(at), tasks).detach(), **EXACT)


def query_rewards(tasks: Task) -> Tensor:
    return torch.cat([happened(task.query).rewards for task in each_task(tasks)])


def test_rewards_of_e_maml_are_standardized_over_the_transitions_of_all_tasks() -> None:
    case = Case()
    tasks = draw_tasks(case, build(case)[2])
    raw, rewards = query_rewards(tasks), query_rewards(standardize_rewards(tasks))
    assert rewards.mean().abs() < 1e-12
    assert rewards.std(correction=0).item() == pytest.approx(1, abs=1e-7)
    assert torch.corrcoef(torch.stack([raw, rewards]))[0, 1].item() == pytest.approx(1)
    same = {f: getattr(tasks.query, f) for f in ("advantages", "actions", "observations")}
    assert all(getattr(standardize_rewards(tasks).query, f) is x for f, x in same.items())


TRUST = {"max_kl": 1e-3, "cg_steps": 5}
TRUSTED = [
    *(("maml-trpo", inner) for inner in ["sgd", *LEARNED]),
    *(("cavia", inner) for inner in ["sgd", "meta-sgd", "meta-curvature+lslr"]),
    ("e-maml", "sgd"),
]


@pytest.mark.parametrize(("method", "inner"), TRUSTED)
def test_trust_region_updates_every_meta_parameter_and_reports_metrics(
    method: str, inner: str
) -> None:
    case = Case(inner=inner, context=CONTEXT if method == "cavia" else 0)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    outer = {"explore": method == "e-maml"}
    learner = (e_maml if method == "e-maml" else maml_trpo)(policy, loop, **TRUST)
    state, metrics = learner.step(MetaState(meta), tasks)
    after = state.params
    assert tree.map_leaves(torch.numel, after) == tree.map_leaves(torch.numel, meta)
    changes = tree.add(after, meta, scale=-1.0)
    assert all(change.ne(0).all() for change in tree.leaves(changes))
    losses = [plain_objective(case, attached(at), tasks, **outer).detach() for at in (meta, after)]
    assert_close(metrics["trpo/surrogate"], losses[0], **EXACT)
    assert_close(metrics["trpo/improvement"], losses[0] - losses[1], rtol=1e-9, atol=1e-13)
    assert losses[1] < losses[0]
    kl = plain_adapted_kl(case, attached(after), tasks).detach()
    assert_close(metrics["trpo/kl"], kl, rtol=1e-9, atol=1e-13)
    assert 1e-4 < kl <= 1e-3
    slope = tree.norm(plain_gradient(case, meta, tasks, **outer))
    assert_close(metrics["gradient/outer"], slope, **EXACT)


def checked_products(case: Case) -> tuple[MetaParams, MetaParams]:
    """Compare the gradient and a Fisher product of every task with plain autograd; return both."""
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    vector = random_like(meta, seed=4)
    _, gradient, image = PostAdaptationObjective(policy, loop).products(meta, tasks, vector)
    assert relative_error(mean(image), plain_kl_product(case, meta, tasks, vector)) < 1e-10
    assert relative_error(mean(gradient), plain_gradient(case, meta, tasks)) < 1e-10
    return gradient, image


@kinds
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner", ["sgd", *LEARNED])
def test_fisher_product_of_every_inner_optimizer_is_the_hessian_of_the_kl(
    inner: str, first_order: bool, kind: str
) -> None:
    case = Case(kind, "reinforce", inner, steps=2, first_order=first_order)
    gradient, image = checked_products(case)
    assert all(g.ne(0).all() for g in tree.leaves((gradient, image)))


@kinds
@pytest.mark.parametrize("estimator", ["ratio", "dice", "clipped"])
def test_fisher_product_of_every_inner_loss_is_the_hessian_of_the_kl(
    estimator: str, kind: str
) -> None:
    case = Case(kind, estimator, "meta-sgd", steps=2)
    checked_products(case)


@pytest.mark.parametrize("case", [Case(inner="meta-curvature+lslr"), Case(context=CONTEXT)])
def test_staged_products_of_every_method_equal_eager_products(case: Case) -> None:
    policy, loop, meta = build(case)
    tasks = standardize_rewards(draw_tasks(case, meta))
    vector = random_like(meta, seed=4)
    objective = PostAdaptationObjective(policy, loop, exploration(policy))
    loss, gradient, image = objective.products(meta, tasks, vector)
    staged = objective.linearize(meta, tasks)
    assert_close(staged.surrogate, loss, **EXACT)
    assert relative_error(staged.gradient, gradient) < 1e-12
    assert relative_error(staged.fisher(vector), image) < 1e-12


@kinds
@counts
@pytest.mark.parametrize("inner", ["sgd", *LEARNED])
def test_gradient_and_fisher_product_of_cavia_match_plain_autograd(
    inner: str, steps: int, kind: str
) -> None:
    case = Case(kind, "reinforce", inner, steps, context=CONTEXT)
    policy, loop, meta = build(case)
    assert bool(meta.inner) == (inner != "sgd")
    tasks = draw_tasks(case, meta)
    vector = random_like(meta, seed=4)
    _, gradient, image = PostAdaptationObjective(policy, loop).products(meta, tasks, vector)
    assert relative_error(mean(gradient), plain_gradient(case, meta, tasks)) < 1e-10
    assert relative_error(mean(image), plain_kl_product(case, meta, tasks, vector)) < 1e-10
    assert all(g.ne(0).all() for g in tree.leaves((gradient, image)))


@kinds
def test_only_the_context_adapts_from_zero_and_is_not_learned(kind: str) -> None:
    case = Case(kind, steps=2, context=CONTEXT)
    _, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    assert "context" not in meta.model
    for task in each_task(tasks):
        start, *_, end = loop.path(meta, task.support)
        assert start["context"].tolist() == [0.0] * CONTEXT
        assert end["context"].ne(0).all()
        assert all(end[name] is meta.model[name] for name in meta.model)
        assert relative_error(end, plain_path(case, attached(meta), task.support)[-1]) < 1e-12


@kinds
def test_over_tasks_uses_the_context_of_each_task(kind: str) -> None:
    case = Case(kind, context=CONTEXT)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    seen = tasks.query.observations
    adapted = vmap(lambda task: loop.adapt(meta, task.support))(tasks)
    found = at_once(policy, adapted, seen)
    assert_close(found, vmap(policy)(adapted, seen), rtol=1e-12, atol=1e-14)
    for index, task in enumerate(each_task(tasks)):
        alone = policy(loop.adapt(meta, task.support), task.query.observations)
        mine = tree.map_leaves(lambda x, i=index: x[i], found)
        assert_close(mine, alone, rtol=1e-12, atol=1e-14)
    other = {**adapted, "context": adapted["context"].flip(0)}
    assert relative_error(at_once(policy, other, seen)[0], found[0]) > 1e-3
