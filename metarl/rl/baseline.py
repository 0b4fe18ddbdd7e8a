"""The linear feature baseline and generalized advantage estimation (GAE) for one task.

The linear feature baseline follows Duan et al. 2016. As in Finn et al. 2017,
a new baseline is fitted for every task and inner step, to the same episodes
for which it then predicts returns.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metarl.core import Metrics
from metarl.rl.episodes import Episodes, Rollout, masked, masked_mean
from metarl.util import between


Process: TypeAlias = Callable[..., tuple[Episodes, Metrics]]
"""Function that computes advantages: ``rollout -> (episodes, metrics)`` for one task."""

RIDGE = 1e-5
SMALLEST_RIDGE = 1e-10  # after the features are scaled to norm 1
CLIP = 10.0  # limit for the absolute values of observations
GRID = 8  # cells along each axis of an image


def advantages(*, discount: float = 0.99, gae_lambda: float = 1.0) -> Process:
    """Return a function that computes standardized advantages with a linear baseline and GAE.

    Args:
        discount: Discount factor γ.
        gae_lambda: λ in generalized advantage estimation (Schulman et al.
            2016, eq. 16). With λ = 1, the advantage before standardization is
            the return-to-go minus the baseline.

    Returns:
        A function from the rollout of one task to ``(episodes, metrics)``;
        use ``torch.func.vmap`` for several tasks. The metrics contain
        ``baseline/explained_variance``. An optional second argument of shape
        (time, episode) replaces the predictions of the linear baseline.

    Raises:
        ValueError: If `discount` or `gae_lambda` is not between 0 and 1.
    """
    between(0, 1).check("discount", discount)
    between(0, 1).check("gae_lambda", gae_lambda)

    def process(
        rollout: Rollout, values: Float[Tensor, "time episode"] | None = None
    ) -> tuple[Episodes, Metrics]:
        mask = rollout.mask
        rewards = masked(rollout.rewards, mask)
        returns = discounted_sum(rewards, discount)
        if values is None:
            values = fit_baseline(rollout.observations, returns, mask)
        values = masked(values, mask)
        following = torch.cat([values[1:], torch.zeros_like(values[:1])])
        estimates = discounted_sum(rewards + discount * following - values, discount * gae_lambda)
        metrics = {"baseline/explained_variance": explained_variance(values, returns, mask)}
        # All fields of the rollout except `diverged`.
        kept = {name: x for name, x in rollout._asdict().items() if name in Episodes._fields}
        return Episodes(**kept, advantages=standardize(estimates, mask)), metrics

    return process


def discounted_sum(
    values: Float[Tensor, "time episode"], discount: float
) -> Float[Tensor, "time episode"]:
    """Return the discounted sums Σ_{k≥0} discountᵏ · values[t + k] for every time step t.

    Values after the last time step count as 0.
    """
    total, shift = values, 1
    while shift < len(values):  # doubles the number of terms of each sum
        later = torch.cat([total[shift:], torch.zeros_like(total[:shift])])
        total, shift = total + discount**shift * later, 2 * shift
    return total


def baseline_features(
    observations: Shaped[Tensor, "time episode ..."],
) -> Float[Tensor, "time episode columns"]:
    """Return the baseline's features for every transition.

    The columns are the observations clipped to [−10, 10], the squares of
    these values, the powers 1 to 3 of t/100 for time step t, and a constant
    1. Images of more than 8 pixels are averaged over a grid of 8 × 8 cells, and
    image bytes are divided by 255. Other observations with several axes are
    flattened.
    """
    flat = _pooled(observations)
    clipped = (flat if flat.is_floating_point() else flat.float()).clamp(-CLIP, CLIP)
    time = torch.arange(len(clipped), dtype=clipped.dtype, device=clipped.device) / 100
    time = time[:, None, None].expand(*clipped.shape[:2], 1)
    return torch.cat([clipped, clipped**2, time, time**2, time**3, torch.ones_like(time)], dim=-1)


def _pooled(observations: Shaped[Tensor, "time episode ..."]) -> Tensor:
    """Return observations as vectors of shape (time, episode, features).

    Images are average-pooled to a grid of 8 × 8 cells.
    """
    shape = observations.shape[2:]
    first = len(shape) == 3 and shape[0] < min(shape[1:])  # channels before height and width
    if len(shape) not in (2, 3) or min(shape[first : first + 2]) <= GRID:
        return observations.flatten(2)
    images = observations.flatten(0, 1)
    images = images / 255 if images.dtype == torch.uint8 else images
    images = images.unsqueeze(1) if len(shape) == 2 else images
    images = images if first or len(shape) == 2 else images.permute(0, 3, 1, 2)
    cells = torch.nn.functional.adaptive_avg_pool2d(images, GRID)
    return cells.reshape(*observations.shape[:2], -1)


def fit_baseline(
    observations: Shaped[Tensor, "time episode ..."],
    returns: Float[Tensor, "time episode"],
    mask: Bool[Tensor, "time episode"],
) -> Float[Tensor, "time episode"]:
    """Fit a linear baseline to returns-to-go by ridge regression, and return the predictions.

    The normal equations are solved in float64 with a ridge of 1e-5. Before
    solving, the features are scaled to norm 1, with a ridge of at least 1e-10
    on this scale, so that long horizons and constant or collinear
    observations do not make the equations singular.

    Args:
        observations: Observations of one task.
        returns: Discounted returns-to-go.
        mask: True for transitions, False for padding, which does not affect the fit.

    Returns:
        The predicted returns-to-go of shape (time, episode). All predictions
        are NaN if the equations cannot be solved because observations or
        returns are not finite.
    """
    features = baseline_features(observations).double()
    chosen = torch.where(mask[..., None], features, 0.0).flatten(0, 1)
    square = (chosen**2).sum(0)
    scale = torch.where(square > 0, square, 1.0).rsqrt()
    gram = scale[:, None] * (chosen.mT @ chosen) * scale
    ridge = (RIDGE * scale**2).clamp(min=SMALLEST_RIDGE)
    factor, failed = torch.linalg.cholesky_ex(gram + torch.diag(ridge))
    target = scale[:, None] * (chosen.mT @ masked(returns, mask).double().flatten()[:, None])
    weights = scale[:, None] * torch.cholesky_solve(target, factor)
    weights = torch.where(failed == 0, weights, torch.nan)
    return (features @ weights).squeeze(-1).to(returns.dtype)


def standardize(
    values: Float[Tensor, "time episode"], mask: Bool[Tensor, "time episode"]
) -> Float[Tensor, "time episode"]:
    """Standardize values to mean 0 and standard deviation 1 over all transitions.

    Padding, where `mask` is False, is set to 0 and does not affect the statistics.
    """
    centered = values - masked_mean(values, mask)
    std = masked_mean(centered**2, mask).sqrt()
    return masked(centered / (std + 1e-8), mask)


def explained_variance(
    values: Float[Tensor, "time episode"],
    returns: Float[Tensor, "time episode"],
    mask: Bool[Tensor, "time episode"],
) -> Float[Tensor, ""]:
    """Return the explained variance of a baseline, 1 − Var(returns − values) / Var(returns).

    The result is 1 for a perfect baseline and 0 for a constant baseline.

    Args:
        values: The returns-to-go predicted by the baseline.
        returns: The measured returns-to-go.
        mask: True for transitions, False for padding.
    """

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    return 1 - variance(returns - values) / (variance(returns) + 1e-8)
