"""Policy-gradient losses: equal values and gradients, different curvature."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, grad_and_value
from torch.testing import assert_close

from metarl.core import LossFn, Params, tree
from metarl.rl.distributions import Categorical
from metarl.rl.episodes import Episodes
from metarl.rl.losses import INNER_LOSSES, mean_kl, ratio, reinforce, surrogate
from metarl.rl.policies import Policy
from tests.support.problems import problem, random_like, relative_error, task_of
from tests.support.reference_losses import (
    happened,
    plain_distribution,
    plain_kl,
    plain_reinforce,
    plain_surrogate,
)


kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])


def at_behavior(kind: str) -> tuple[Policy, Params, Episodes]:
    """Sample episodes of one task, collected by the policy with the returned parameters."""
    objective, meta, tasks = problem(kind, steps=0)
    return objective.policy, meta.model, task_of(tasks.query, 0)


def hessian_product(loss: LossFn, params: Params, episodes: Episodes, vector: Params) -> Params:
    slope = lambda p: tree.dot(grad(loss)(p, episodes), vector)  # noqa: E731
    return grad(slope)(params)


def scores(policy: Policy, params: Params, episodes: Episodes) -> Tensor:
    """Return ∇ log π(a|s), one row per valid transition."""
    real = happened(episodes)
    flat, unravel = tree.ravel(params)

    def log_probs(flat: Tensor) -> Tensor:
        return plain_distribution(policy(unravel(flat), real.observations)).log_prob(real.actions)

    return torch.autograd.functional.jacobian(log_probs, flat)


@kinds
def test_ratio_and_reinforce_have_equal_gradients_at_the_behavior_policy(kind: str) -> None:
    policy, params, episodes = at_behavior(kind)
    expected = grad(plain_reinforce(policy))(params, episodes)
    for estimator in INNER_LOSSES.values():
        assert relative_error(grad(estimator(policy))(params, episodes), expected) < 1e-12


@kinds
def test_gradient_is_the_mean_score_times_advantage(kind: str) -> None:
    policy, params, episodes = at_behavior(kind)
    weights = happened(episodes).advantages
    expected = -(weights[:, None] * scores(policy, params, episodes)).mean(0)
    assert_close(tree.ravel(grad(reinforce(policy))(params, episodes))[0], expected)


@kinds
def test_curvature_of_ratio_has_the_score_term_and_reinforce_does_not(kind: str) -> None:
    policy, params, episodes = at_behavior(kind)
    vector = random_like(params, seed=5)
    curvature = [hessian_product(e(policy), params, episodes, vector) for e in (ratio, reinforce)]
    # ∇²(π/π_old) = ∇² log π + ∇ log π ∇ log πᵀ at π = π_old.
    rows = scores(policy, params, episodes)
    weights = happened(episodes).advantages * (rows @ tree.ravel(vector)[0])
    expected = -(weights[:, None] * rows).mean(0)
    assert_close(tree.ravel(tree.add(*curvature, scale=-1.0))[0], expected)
    assert expected.norm() > 0.01


@kinds
def test_losses_at_other_parameters_match_plain_autograd(kind: str) -> None:
    policy, params, episodes = at_behavior(kind)
    moved = tree.add(params, random_like(params, seed=5), scale=0.1)
    distribution = policy(moved, episodes.observations)
    assert_close(reinforce(policy)(moved, episodes), plain_reinforce(policy)(moved, episodes))
    assert_close(surrogate(distribution, episodes), plain_surrogate(policy, moved, episodes))
    assert_close(ratio(policy)(moved, episodes), plain_surrogate(policy, moved, episodes))
    assert_close(mean_kl(distribution, episodes), plain_kl(policy, moved, episodes))


@kinds
def test_at_the_old_policy_the_surrogate_is_minus_the_mean_advantage(kind: str) -> None:
    policy, params, episodes = at_behavior(kind)
    distribution = policy(params, episodes.observations)
    assert_close(surrogate(distribution, episodes), -episodes.advantages[episodes.mask].mean())
    assert_close(mean_kl(distribution, episodes), torch.zeros(()).double())
    slope = grad(lambda p: mean_kl(policy(p, episodes.observations), episodes))(params)
    assert tree.norm(slope) < 1e-14


def test_a_clipped_gain_has_a_derivative_where_the_ratio_overflows() -> None:
    shape = (1, 2)
    episodes = Episodes(
        torch.zeros(*shape, 1),
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape),
        torch.ones(shape, dtype=torch.bool),
        Categorical(torch.tensor([-500.0, 0.0]).expand(*shape, 2)),
        torch.tensor([[1.0, -1.0]]),
    )

    def loss(logits: Tensor) -> Tensor:
        return surrogate(Categorical(logits.expand(*shape, 2)), episodes, clip=0.2)

    slope, value = grad_and_value(loss)(torch.zeros(2))
    assert value.isfinite()
    assert slope.isfinite().all()
