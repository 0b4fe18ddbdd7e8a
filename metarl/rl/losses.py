"""Policy-gradient losses for the inner loop, for one task."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core import LossFn, Params
from metarl.rl.distributions import Distribution
from metarl.rl.episodes import Episodes, masked, masked_mean
from metarl.rl.policies import Policy


InnerLoss: TypeAlias = Callable[..., LossFn]
"""Function that builds the inner loss of a policy: ``policy -> loss``."""

LARGEST = 20.0  # largest log ratio; exp could overflow for larger values, with NaN derivatives


def reinforce(policy: Policy) -> LossFn:
    """Return the REINFORCE loss −mean(log π(a|s) · A) (Finn et al. 2017, eq. 4).

    A are the advantages. As in the code for the paper, the second derivative
    contains ∇² log π, but no score term.

    Args:
        policy: The policy π.

    Returns:
        A function ``(params, episodes) -> loss`` for the episodes of one task.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        log_prob = policy.unroll(params, episodes).log_prob(episodes.actions)
        return -masked_mean(log_prob * episodes.advantages, episodes.mask)

    return loss


def ratio(policy: Policy) -> LossFn:
    """Return the low-variance curvature (LVC) loss −mean(π(a|s) / π_old(a|s) · A).

    π_old is the policy that collected the episodes, and A are the advantages.
    At π_old, the first derivatives of this loss and of :func:`reinforce` are
    equal. The second derivative of this loss also contains the score term
    (Rothfuss et al. 2019, eq. 8).

    Args:
        policy: The policy π.

    Returns:
        A function ``(params, episodes) -> loss`` for the episodes of one task.
    """
    return clipped(policy, clip=None)


def clipped(policy: Policy, *, clip: float | None = 0.5) -> LossFn:
    """Return PPO's loss −mean(min(r A, clip(r, 1 ± ε) A)) with r = π / π_old for the inner steps.

    π_old is the policy that collected the episodes, and A are the advantages.
    At π_old, the derivatives of this loss and of :func:`ratio` are equal.

    Args:
        policy: The policy π.
        clip: The clipping range ε; None disables clipping. The default matches MAML-PPO in garage.

    Returns:
        A function ``(params, episodes) -> loss`` for the episodes of one task.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        return surrogate(policy.unroll(params, episodes), episodes, clip=clip)

    return loss


def dice(policy: Policy) -> LossFn:
    """Return the DiCE loss −mean((□(≤t) − □(<t)) A) with the advantages A.

    The definition is □(≤t) = exp(c − ⊥c) with c = Σ_{t' ≤ t} log π(a_t'|s_t')
    and the stop-gradient operator ⊥ (Foerster et al. 2018, eq. 4, with the
    advantages of Farquhar et al. 2019, eq. 12). The first derivatives of this
    loss and of :func:`reinforce` are equal. The second derivative takes into
    account that every reward depends on all earlier actions, but has a high
    variance. The derivatives are unbiased if the discount γ and the GAE
    parameter λ are 1. With γ < 1, the second derivative is biased, because
    the factor γ^(t' − t) for each pair of actions is missing. The value of
    the loss is always 0; only the derivatives are meaningful.

    Args:
        policy: The policy π.

    Returns:
        A function ``(params, episodes) -> loss`` for the episodes of one task.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        log_prob = policy.unroll(params, episodes).log_prob(episodes.actions)
        through = masked(log_prob, episodes.mask).cumsum(0)
        before = torch.cat([torch.zeros_like(through[:1]), through[:-1]])
        return -masked_mean((_box(through) - _box(before)) * episodes.advantages, episodes.mask)

    return loss


def _box(log_prob: Tensor) -> Tensor:
    return torch.exp(log_prob - log_prob.detach())


def surrogate(
    distribution: Distribution, episodes: Episodes, *, clip: float | None = None
) -> Float[Tensor, ""]:
    """Return the surrogate loss −mean(π/π_old · A) of a policy on one task's episodes.

    Args:
        distribution: The action distributions π at the observations in the episodes.
        episodes: The episodes, collected with π_old.
        clip: PPO's clipping range ε (Schulman et al. 2017, eq. 7); None disables clipping.
    """
    old = episodes.behavior.log_prob(episodes.actions)
    change = masked(distribution.log_prob(episodes.actions) - old, episodes.mask)
    if clip is None:
        return -masked_mean(torch.exp(change) * episodes.advantages, episodes.mask)
    gain = torch.exp(change.clamp(max=LARGEST)) * episodes.advantages
    bound = episodes.advantages + clip * episodes.advantages.abs()  # (1 ± ε) A with the sign of A
    return -masked_mean(torch.where(gain < bound, gain, bound), episodes.mask)


def mean_kl(distribution: Distribution, episodes: Episodes) -> Float[Tensor, ""]:
    """Return the mean KL(π_old ‖ π) in nats over the transitions in one task's episodes.

    Args:
        distribution: The action distributions π at the observations in the episodes.
        episodes: The episodes, collected with π_old.
    """
    return masked_mean(episodes.behavior.kl(distribution), episodes.mask)


INNER_LOSSES: dict[str, InnerLoss] = {
    "reinforce": reinforce,
    "ratio": ratio,
    "dice": dice,
    "clipped": clipped,
}
"""Inner losses by name, for the setting `inner_loss`."""
