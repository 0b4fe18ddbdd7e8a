"""Advantages against loops and closed forms, and the baseline against dense least squares."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metarl.core import tree
from metarl.rl import baseline as module
from metarl.rl.baseline import (
    advantages,
    baseline_features,
    discounted_sum,
    explained_variance,
    fit_baseline,
    standardize,
)
from metarl.rl.distributions import Gaussian
from metarl.rl.episodes import Episodes, Rollout, masked, masked_mean, mean_return
from tests.support import nightly
from tests.support.problems import randn, random_mask, seeded


TIME, EPISODES = 12, 5


def rollout(*, rewards: Tensor | None = None, full: bool = False, fill: float = 3.0) -> Rollout:
    """Sample a rollout of one task whose padding contains `fill`."""
    mask = random_mask(TIME, EPISODES, seeded(1)) | full
    observations, drawn = randn(TIME, EPISODES, 2, seed=2), randn(TIME, EPISODES, seed=3)
    rewards = drawn if rewards is None else rewards
    return Rollout(
        observations=torch.where(mask[..., None], observations, fill),
        actions=observations,
        rewards=torch.where(mask, rewards, fill),
        mask=mask,
        behavior=Gaussian(observations, observations),
        diverged=~mask,
    )


def lengths(mask: Tensor) -> list[int]:
    return mask.sum(0).tolist()


def naive_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Return generalized advantages (Schulman et al. 2016), computed by the recursion."""
    result = torch.zeros_like(rewards)
    for episode, length in enumerate(lengths(mask)):
        running = following = 0.0
        for t in reversed(range(length)):
            delta = rewards[t, episode] + discount * following - values[t, episode]
            running = delta + discount * gae_lambda * running
            result[t, episode], following = running, values[t, episode]
    return result


def naive_standardized(values: Tensor, mask: Tensor) -> Tensor:
    valid = values[mask]
    centered = (values - valid.mean()) / (valid.std(correction=0) + 1e-8)
    return torch.where(mask, centered, 0.0)


class LargestTensor(TorchDispatchMode):
    """Record the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.elements = max(self.elements, *(x.numel() for x in tensors), 0)
        return result


def test_memory_for_advantages_is_linear_in_the_time_limit() -> None:
    long = Rollout(*tree.map_leaves(lambda x: x.repeat(100, *[1] * (x.ndim - 1)), rollout()))
    with LargestTensor() as largest:
        advantages(discount=0.99, gae_lambda=0.95)(long)
    features = baseline_features(long.observations)
    assert largest.elements == features.numel() < len(long.rewards) ** 2


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.99, 1.0])
def test_discounted_sum_matches_a_loop(discount: float) -> None:
    values = randn(TIME, EPISODES)
    expected, running = torch.empty_like(values), torch.zeros(EPISODES).double()
    for t in reversed(range(TIME)):
        running = values[t] + discount * running
        expected[t] = running
    assert_close(discounted_sum(values, discount), expected)


def test_discounted_sum_of_a_constant_reward_is_geometric() -> None:
    left = torch.arange(TIME, 0, -1).double()[:, None]
    expected = (1 - 0.9**left) / (1 - 0.9)
    assert_close(discounted_sum(torch.ones(TIME, 1).double(), 0.9), expected)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_advantages_match_the_recursion(discount: float, gae_lambda: float) -> None:
    batch = rollout()
    rewards = masked(batch.rewards, batch.mask)
    values = fit_baseline(batch.observations, discounted_sum(rewards, discount), batch.mask)
    expected = naive_advantages(batch.rewards, values, batch.mask, discount, gae_lambda)
    episodes, _ = advantages(discount=discount, gae_lambda=gae_lambda)(batch)
    assert_close(episodes.advantages, naive_standardized(expected, batch.mask))
    assert isinstance(episodes, Episodes)
    assert all(a is b for a, b in zip(episodes[:5], batch[:5], strict=True))


@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_limits_of_lambda_are_td_error_and_return(
    monkeypatch: pytest.MonkeyPatch, gae_lambda: float
) -> None:
    values = randn(TIME, EPISODES, seed=8)
    monkeypatch.setattr(module, "fit_baseline", lambda *inputs: values)
    batch = rollout(full=True)
    following = torch.cat([values[1:], torch.zeros(1, EPISODES).double()])
    expected = {
        0.0: batch.rewards + 0.9 * following - values,
        1.0: discounted_sum(batch.rewards, 0.9) - values,
    }[gae_lambda]
    episodes, _ = advantages(discount=0.9, gae_lambda=gae_lambda)(batch)
    assert_close(episodes.advantages, naive_standardized(expected, batch.mask))


def test_constant_rewards_in_full_episodes_are_explained_by_time() -> None:
    batch = rollout(rewards=torch.ones(TIME, EPISODES).double(), full=True)
    _, metrics = advantages(discount=1.0)(batch)
    assert metrics["baseline/explained_variance"] > 0.9999


def test_baseline_matches_dense_ridge_regression_on_clipped_observations() -> None:
    batch = rollout()
    observations, returns = 8 * batch.observations, 10 * randn(TIME, EPISODES, seed=4)
    assert (observations.abs() > 10).any()
    o, t = observations.clamp(-10, 10).numpy(), np.arange(TIME)[:, None, None] / 100
    t = np.broadcast_to(t, (TIME, EPISODES, 1))
    columns = np.concatenate([o, o**2, t, t**2, t**3, np.ones_like(t)], -1)
    chosen, target = columns[batch.mask.numpy()], returns[batch.mask].numpy()
    # Ridge regression is least squares with the additional rows √ridge · I.
    rows = np.concatenate([chosen, np.sqrt(1e-5) * np.eye(columns.shape[-1])])
    weights, *_ = np.linalg.lstsq(rows, np.append(target, np.zeros(columns.shape[-1])), rcond=None)
    fit = fit_baseline(observations, returns, batch.mask)
    assert_close(fit[batch.mask], torch.from_numpy(chosen @ weights), rtol=1e-6, atol=1e-6)


def test_baseline_in_float32_supports_constant_and_equal_features() -> None:
    observations = torch.zeros(200, 20, 4)
    returns = torch.arange(200.0)[:, None].expand(200, 20).contiguous()
    fit = fit_baseline(observations, returns, torch.ones(200, 20, dtype=torch.bool))
    assert fit.dtype == torch.float32
    assert_close(fit, returns, rtol=0, atol=0.05)


@pytest.mark.parametrize(("horizon", "episodes"), [(200, 20), (1000, 40), nightly(10_000, 20)])
@pytest.mark.parametrize("constants", [(), (9.81, 0.333, 7.1), (9.81, 8, 7.1, 9, 5, 6), (0.0, 1e4)])
def test_constant_observations_do_not_affect_the_baseline(
    horizon: int, episodes: int, constants: tuple[float, ...]
) -> None:
    facts = torch.tensor(constants).expand(horizon, episodes, len(constants))
    observations = torch.cat([randn(horizon, episodes, 2).float(), facts], dim=-1)
    rewards = 1 + 0.1 * randn(horizon, episodes, seed=5).float()
    returns = discounted_sum(rewards, 1.0)
    mask = torch.ones(horizon, episodes, dtype=torch.bool)
    features = baseline_features(observations).double().flatten(0, 1)
    target = returns.double().flatten()[:, None]
    best = features @ torch.linalg.lstsq(features, target, driver="gelsd").solution
    fit = fit_baseline(observations, returns, mask)
    expected = explained_variance(best.reshape(returns.shape).float(), returns, mask)
    assert_close(explained_variance(fit, returns, mask), expected, rtol=0, atol=1e-5)


def test_collinear_observations_do_not_affect_the_baseline() -> None:
    batch = rollout(full=True)
    doubled = torch.cat([batch.observations, 2 * batch.observations], dim=-1)
    returns = randn(TIME, EPISODES, seed=4)
    expected = fit_baseline(batch.observations, returns, batch.mask)
    assert_close(fit_baseline(doubled, returns, batch.mask), expected, rtol=1e-3, atol=1e-4)


def test_baseline_of_non_finite_observations_is_nan() -> None:
    batch = rollout(full=True)
    observations = batch.observations.clone()
    observations[0, 0, 0] = torch.nan
    assert fit_baseline(observations, batch.rewards, batch.mask).isnan().all()


def test_baseline_is_nan_if_the_factorization_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    factorize = torch.linalg.cholesky_ex

    def fail(matrix: Tensor) -> Any:
        return torch.return_types.linalg_cholesky_ex((factorize(matrix).L, torch.tensor(1)))

    monkeypatch.setattr(torch.linalg, "cholesky_ex", fail)
    batch = rollout(full=True)
    assert fit_baseline(batch.observations, batch.rewards, batch.mask).isnan().all()


def test_standardized_values_have_mean_zero_and_std_one() -> None:
    mask = random_mask(TIME, EPISODES, seeded(1))
    result = standardize(torch.where(mask, 5 + 3 * randn(TIME, EPISODES), torch.nan), mask)
    assert_close(result[mask].mean().item(), 0.0, rtol=0, atol=1e-12)
    assert_close(result[mask].std(correction=0).item(), 1.0, rtol=0, atol=1e-7)
    assert result[~mask].eq(0).all()
    assert standardize(torch.full((2, 2), 4.0), torch.ones(2, 2, dtype=torch.bool)).eq(0).all()


def test_explained_variance_is_one_for_perfect_and_zero_for_constant_predictions() -> None:
    mask, returns = random_mask(TIME, EPISODES, seeded(1)), randn(TIME, EPISODES)
    assert explained_variance(returns + 4, returns, mask).item() == pytest.approx(1)
    assert explained_variance(torch.ones_like(returns), returns, mask).item() == pytest.approx(
        0, abs=1e-7
    )
    half = explained_variance(returns / 2, returns, mask).item()
    assert half == pytest.approx(0.75, abs=1e-7)


@pytest.mark.parametrize("fill", [1e6, torch.nan, torch.inf])
def test_padding_does_not_matter(fill: float) -> None:
    expected, metrics = advantages()(rollout(fill=0.0))
    actual, same = advantages()(rollout(fill=fill))
    assert_close(actual.advantages, expected.advantages, rtol=0, atol=0)
    assert_close(same, metrics, rtol=0, atol=0)
    assert_close(mean_return(rollout(fill=fill)), mean_return(rollout(fill=0.0)), rtol=0, atol=0)


def test_masked_mean_weights_every_transition_equally() -> None:
    values, mask = (
        torch.tensor([[1.0, torch.nan], [2.0, 6.0]]),
        torch.tensor([[True, False], [True, True]]),
    )
    assert masked_mean(values, mask) == 3
    assert masked(values, mask).tolist() == [[1, 0], [2, 6]]


@pytest.mark.parametrize("options", [{"discount": 1.1}, {"discount": -0.1}, {"gae_lambda": 2.0}])
def test_invalid_discounts_raise_an_error(options: dict[str, float]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} must be between 0 and 1, got {value}"):
        advantages(**options)
