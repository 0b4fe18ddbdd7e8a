"""Policy-gradient losses of one task, ready for the inner loop."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core.types import LossFn, Params
from metarl.rl.distributions import Distribution
from metarl.rl.episodes import Episodes, masked, masked_mean
from metarl.rl.policies import Policy


Estimator: TypeAlias = Callable[[Policy], LossFn]


def reinforce(policy: Policy) -> LossFn:
    """Build −mean(log π(a|s) · A) (Finn et al. 2017, eq. 4).

    Its second derivative keeps ∇² log π and drops the score term: what the paper's code computes.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        log_prob = policy(params, episodes.observations).log_prob(episodes.actions)
        return -masked_mean(log_prob * episodes.advantages, episodes.mask)

    return loss


def ratio(policy: Policy) -> LossFn:
    """Build −mean(π(a|s) / π_old(a|s) · A): the low-variance curvature estimator.

    The value and the first derivative at π_old are those of :func:`reinforce`; the second
    derivative also has the score term (Rothfuss et al. 2019, eq. 8).
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        return surrogate(policy(params, episodes.observations), episodes)

    return loss


def surrogate(distribution: Distribution, episodes: Episodes) -> Float[Tensor, ""]:
    """Return −mean(π/π_old · A) of a distribution at the observations of the episodes."""
    old = episodes.behavior.log_prob(episodes.actions)
    change = masked(distribution.log_prob(episodes.actions) - old, episodes.mask)
    return -masked_mean(torch.exp(change) * episodes.advantages, episodes.mask)


def mean_kl(distribution: Distribution, episodes: Episodes) -> Float[Tensor, ""]:
    """Return the mean KL(π_old ‖ π) over the transitions of one task."""
    return masked_mean(episodes.behavior.kl(distribution), episodes.mask)


ESTIMATORS: dict[str, Estimator] = {"reinforce": reinforce, "ratio": ratio}
