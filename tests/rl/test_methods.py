"""Meta-RL by gradient descent against plain autograd: VPG-MAML, MAML-PPO, ProMP, Reptile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    MetaLearner,
    MetaParams,
    MetaState,
    Metrics,
    Params,
    Task,
    reptile,
    tree,
)
from metarl.rl.losses import clipped
from metarl.rl.policies import Policy
from metarl.rl.policy_gradients import COEFFICIENT, policy_gradient, promp, surrogate_loss
from tests.support.problems import fill_padding, relative_error
from tests.support.reference_losses import attached
from tests.support.reference_rl import (
    CONTEXT,
    EXACT,
    INNER_CLIP,
    LEARNED,
    NUM_TASKS,
    Case,
    build,
    draw_tasks,
    each_task,
    log_probs,
    mean,
    moved,
    plain_adapted_kl,
    plain_gradient,
    plain_kl,
    plain_objective,
    plain_path,
)


ETA = 0.7
CLIP = 0.3

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
counts = pytest.mark.parametrize("steps", [1, 2])


def vpg_maml(policy: Policy, loop: InnerLoop, **options: Any) -> MetaLearner:
    return policy_gradient(loop, surrogate_loss(policy), **options)


def maml_ppo(policy: Policy, loop: InnerLoop, **options: Any) -> MetaLearner:
    return policy_gradient(loop, surrogate_loss(policy, clip=INNER_CLIP), **options)


def with_penalty(policy: Policy, loop: InnerLoop, **options: Any) -> MetaLearner:
    options["outer_lr"] = options.pop("lr")
    return promp(policy, loop, clip=CLIP, kl_coefficient=ETA, **{"epochs": 1} | options)


# By method: learner, inner loss, and outer loss of the reference.
DESCENDS: dict[str, tuple[Callable[..., MetaLearner], str, Callable[[int], dict[str, Any]]]] = {
    "vpg-maml": (vpg_maml, "reinforce", lambda steps: {}),
    "maml-ppo": (maml_ppo, "clipped", lambda steps: {"clip": INNER_CLIP}),
    "promp": (with_penalty, "ratio", lambda steps: {"clip": CLIP, "coefficients": (ETA,) * steps}),
}
methods = pytest.mark.parametrize("method", DESCENDS)


def state_at(learner: MetaLearner, meta: MetaParams) -> MetaState:
    """Return an initial state with these meta-parameters, including learned rates."""
    state = learner.init(meta.model)
    for mine, wanted in zip(tree.leaves(state.params), tree.leaves(meta), strict=True):
        mine.copy_(wanted)
    return state


def step_from(
    learner: MetaLearner, meta: MetaParams, tasks: Task
) -> tuple[MetaParams, dict[str, Tensor]]:
    """Return the decrease of the meta-parameters in one step, and its metrics."""
    state, metrics = learner.step(state_at(learner, meta), tasks)
    return tree.add(meta, state.params, scale=-1.0), metrics


def gradient_of(
    make: Callable[..., MetaLearner], policy: Policy, loop: InnerLoop, meta: MetaParams, tasks: Task
) -> MetaParams:
    """Return the gradient, measured by a step of gradient descent with rate 1."""
    learner = make(policy, loop, optimizer=torch.optim.SGD, lr=1.0)
    return step_from(learner, meta, tasks)[0]


def beyond(clip: float, pairs: list[tuple[Any, Any]]) -> tuple[int, int]:
    """Return the numbers of transitions whose ratio is clipped from above and from below."""
    found = []
    for params, episodes in pairs:
        log_prob, old, advantages = log_probs(params, episodes)
        ratios = (log_prob - old).exp()
        above = (ratios > 1 + clip) & (advantages > 0)
        below = (ratios < 1 - clip) & (advantages < 0)
        found.append(torch.stack([above.sum(), below.sum()]))
    above, below = torch.stack(found).sum(0).tolist()
    return above, below


@kinds
@counts
@pytest.mark.parametrize("first_order", [False, True])
@methods
def test_gradient_matches_plain_autograd(
    method: str, first_order: bool, steps: int, kind: str
) -> None:
    make, estimator, outer = DESCENDS[method]
    case = Case(kind, estimator, steps=steps, first_order=first_order)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    for at in (meta, moved(meta)):
        expected = plain_gradient(case, at, tasks, **outer(steps))
        assert relative_error(gradient_of(make, policy, loop, at, tasks), expected) < 1e-10


@kinds
@counts
def test_the_moved_parameters_clip_ratios_from_both_sides(steps: int, kind: str) -> None:
    for method in ("maml-ppo", "promp"):
        _, estimator, outer = DESCENDS[method]
        case = Case(kind, estimator, steps=steps)
        _, _, meta = build(case)
        tasks, at = draw_tasks(case, meta), attached(moved(meta))
        paths = [(plain_path(case, at, task.support), task) for task in each_task(tasks)]
        after = [(path[-1], task.query) for path, task in paths]
        before = [(path[0], task.support[0]) for path, task in paths]
        assert min(beyond(outer(steps)["clip"], after)) >= 4
        assert min(beyond(INNER_CLIP, before)) >= 4


def test_first_order_omits_second_derivatives() -> None:
    exact, first = (Case(first_order=order) for order in (False, True))
    policy, loop, meta = build(first)
    tasks = draw_tasks(exact, meta)
    gradient = gradient_of(vpg_maml, policy, loop, meta, tasks)
    expected = []
    for task in each_task(
        tasks
    ):  # the gradient at the adapted parameters, used as the gradient at θ
        adapted = MetaParams(plain_path(first, attached(meta), task.support)[-1], {})
        alone = tree.map_leaves(lambda x: x.unsqueeze(0).expand(NUM_TASKS, *x.shape), task)
        expected.append(plain_gradient(Case(steps=0), adapted, alone._replace(support=())))
    assert relative_error(gradient, mean(tree.widened_total(expected))) < 1e-10
    assert relative_error(gradient, plain_gradient(exact, meta, tasks)) > 0.01


@kinds
@pytest.mark.parametrize("estimator", ["reinforce", "ratio", "dice", "clipped"])
def test_gradient_of_every_inner_loss_matches_plain_autograd(estimator: str, kind: str) -> None:
    case = Case(kind, estimator, steps=2)
    policy, loop, meta = build(case)
    tasks, at = draw_tasks(case, meta), moved(meta)
    gradient = gradient_of(vpg_maml, policy, loop, at, tasks)
    assert relative_error(gradient, plain_gradient(case, at, tasks)) < 1e-10


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner", LEARNED)
@methods
def test_gradient_reaches_every_learned_rate(method: str, inner: str, first_order: bool) -> None:
    make, estimator, outer = DESCENDS[method]
    case = Case("gaussian", estimator, inner, steps=2, first_order=first_order)
    policy, loop, meta = build(case)
    tasks, at = draw_tasks(case, meta), moved(meta)
    gradient = gradient_of(make, policy, loop, at, tasks)
    assert relative_error(gradient, plain_gradient(case, at, tasks, **outer(2))) < 1e-10
    assert meta.inner.keys() == gradient.inner.keys() != set()
    assert all(g.ne(0).all() for g in tree.leaves(gradient))


def test_inner_loss_uses_its_clip_argument() -> None:
    case = Case(estimator="clipped")
    policy, _, meta = build(case)
    tasks, at = draw_tasks(case, meta), moved(meta)
    (batch, *_), _ = each_task(tasks)[0]
    for clip in (0.1, 0.5):
        log_prob, old, advantages = log_probs(at.model, batch)
        kept = [
            min(r * a, min(max(r, 1 - clip), 1 + clip) * a)
            for r, a in zip((log_prob - old).exp().tolist(), advantages.tolist(), strict=True)
        ]
        loss = clipped(policy, clip=clip)(at.model, batch).item()
        assert loss == pytest.approx(-sum(kept) / len(kept), rel=1e-12)


@methods
@pytest.mark.parametrize("value", [7.0, torch.nan])
def test_values_in_the_padding_do_not_matter(value: float, method: str) -> None:
    make, estimator, outer = DESCENDS[method]
    case = Case(estimator=estimator)
    policy, loop, meta = build(case)
    tasks, at = draw_tasks(case, meta), moved(meta)
    assert not tasks.query.mask.all()
    spoilt = Task(
        tuple(fill_padding(batch, value) for batch in tasks.support),
        fill_padding(tasks.query, value),
    )
    gradient = gradient_of(make, policy, loop, at, spoilt)
    assert relative_error(gradient, plain_gradient(case, at, tasks, **outer(1))) < 1e-10


@methods
def test_several_epochs_of_adam_repeat_the_inner_loop(method: str) -> None:
    make, estimator, outer = DESCENDS[method]
    case = Case("gaussian", estimator, steps=2)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    expected = tree.map_leaves(torch.clone, meta)
    adam = torch.optim.Adam(tree.leaves(expected), lr=0.02)
    for _ in range(3):
        slopes = plain_gradient(case, expected, tasks, **outer(2))
        for parameter, slope in zip(tree.leaves(expected), tree.leaves(slopes), strict=True):
            parameter.grad = slope
        adam.step()
    learner = make(policy, loop, epochs=3, lr=0.02)
    state, metrics = learner.step(state_at(learner, meta), tasks)
    assert relative_error(state.params, expected) < 1e-10

    before, after = (attached(at) for at in (meta, expected))
    clip = {name: value for name, value in outer(2).items() if name == "clip"}
    losses = [plain_objective(case, at, tasks, **clip).detach() for at in (before, after)]
    assert_close(metrics["outer/improvement"], losses[0] - losses[1], **EXACT)
    assert_close(metrics["outer/surrogate"], losses[1], **EXACT)
    assert_close(metrics["outer/kl"], plain_adapted_kl(case, after, tasks).detach(), **EXACT)
    first = plain_objective(case, before, tasks, **outer(2)).detach()
    assert_close(metrics["outer/loss"], first, **EXACT)
    slope = tree.norm(plain_gradient(case, meta, tasks, **outer(2)))
    assert_close(metrics["gradient/outer"], slope, **EXACT)
    for k in range(2):
        kls = [
            plain_kl(plain_path(case, after, task.support)[k], task.support[k])
            for task in each_task(tasks)
        ]
        assert_close(metrics[f"outer/kl_step_{k}"], torch.stack(kls).mean().detach(), **EXACT)


@kinds
def test_the_penalty_of_promp_uses_the_coefficients_of_the_state(kind: str) -> None:
    case = Case(kind, "ratio", steps=2)
    policy, loop, meta = build(case)
    tasks, at, coefficients = draw_tasks(case, meta), moved(meta), (0.2, 1.5)
    learner = promp(policy, loop, clip=CLIP, optimizer=torch.optim.SGD, outer_lr=1.0, epochs=1)
    own = {COEFFICIENT: torch.tensor(coefficients, dtype=torch.float64)}
    state, _ = learner.step(state_at(learner, at)._replace(own=own), tasks)
    gradient = tree.add(at, state.params, scale=-1.0)
    expected = plain_gradient(case, at, tasks, clip=CLIP, coefficients=coefficients)
    assert relative_error(gradient, expected) < 1e-10
    assert relative_error(gradient, plain_gradient(case, at, tasks, clip=CLIP)) > 0.01


@kinds
@pytest.mark.parametrize("steps", [1, 3])
def test_reptile_gradient_is_the_mean_of_theta_minus_phi(steps: int, kind: str) -> None:
    case = Case(kind, steps=steps)
    policy, loop, meta = build(case)
    tasks = draw_tasks(case, meta)
    learner = policy_gradient(
        loop, surrogate_loss(policy), estimator=reptile, optimizer=torch.optim.SGD, lr=0.5
    )
    step, metrics = step_from(learner, meta, tasks)
    ends = [plain_path(case, attached(meta), task.support)[-1] for task in each_task(tasks)]
    for name, start in meta.model.items():
        center = torch.stack([end[name] for end in ends]).mean(0).detach()
        assert_close(step.model[name], 0.5 * (start - center), **EXACT)
    before = plain_objective(case, attached(meta), tasks).detach()
    after = plain_objective(case, attached(tree.add(meta, step, scale=-1.0)), tasks).detach()
    assert_close(metrics["outer/improvement"], before - after, **EXACT)


@kinds
@pytest.mark.parametrize("first_order", [False, True])
def test_gradient_of_cavia_matches_plain_autograd(first_order: bool, kind: str) -> None:
    case = Case(kind, steps=2, first_order=first_order, context=CONTEXT)
    policy, loop, meta = build(case)
    tasks, at = draw_tasks(case, meta), moved(meta)
    gradient = gradient_of(vpg_maml, policy, loop, at, tasks)
    assert relative_error(gradient, plain_gradient(case, at, tasks)) < 1e-10


@pytest.mark.parametrize("named", [{}, {"outer/cost": 2.0}])
def test_a_custom_outer_loss_is_reported(named: dict[str, float]) -> None:
    case = Case("gaussian")
    policy, loop, meta = build(case)

    def outer(path: list[Params], task: Task) -> tuple[Tensor, Metrics]:
        loss = policy.unroll(path[-1], task.query).entropy().mean()
        return loss, {name: factor * loss for name, factor in named.items()}

    learner = policy_gradient(loop, outer, optimizer=torch.optim.SGD, lr=0.1, epochs=2)
    tasks = draw_tasks(case, meta)
    state, metrics = learner.step(learner.init(meta.model), tasks)
    assert set(metrics) == {"gradient/outer", "outer/loss", "outer/improvement", *named}
    before, after = (
        mean(sum(outer(loop.path(at, task.support), task)[0] for task in each_task(tasks)))
        for at in (meta, state.params)
    )
    assert_close(metrics["outer/loss"], before)
    assert_close(metrics["outer/improvement"], before - after)
    assert metrics["outer/improvement"] > 0
