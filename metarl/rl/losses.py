"""Policy-gradient losses of one task for the inner loop."""

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

LARGEST = 20.0  # log ratio; exp of larger ones could overflow, with a derivative of 0 · ∞


def reinforce(policy: Policy) -> LossFn:
    """Return the loss −mean(log π(a|s) · A) (Finn et al. 2017, eq. 4).

    Its second derivative contains ∇² log π but not the score term, as in the code of the paper.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        log_prob = policy.unroll(params, episodes).log_prob(episodes.actions)
        return -masked_mean(log_prob * episodes.advantages, episodes.mask)

    return loss


def ratio(policy: Policy) -> LossFn:
    """Return the loss −mean(π(a|s) / π_old(a|s) · A), the low-variance curvature estimator.

    At π_old, its first derivative equals that of :func:`reinforce`; its second derivative also
    contains the score term (Rothfuss et al. 2019, eq. 8).
    """
    return clipped(policy, clip=None)


def clipped(policy: Policy, *, clip: float | None = 0.5) -> LossFn:
    """Return PPO's loss −mean(min(r A, clip(r, 1 ± ε) A)) with r = π / π_old for the inner steps.

    Its derivatives at π_old equal those of :func:`ratio`. The default ε is that of MAML-PPO in
    garage.

    Args:
        policy: The policy.
        clip: The clipping range ε; None disables clipping.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        return surrogate(policy.unroll(params, episodes), episodes, clip=clip)

    return loss


def dice(policy: Policy) -> LossFn:
    """Return the DiCE loss −mean((□(≤t) − □(<t)) A), unbiased in derivatives of every order.

    □(≤t) = exp(c − ⊥c) with c = Σ_{t' ≤ t} log π(a_t'|s_t') (Foerster et al. 2018, eq. 4, with the
    advantages of Farquhar et al. 2019, eq. 12): the first derivative equals that of
    :func:`reinforce`, and the second derivative takes into account that every reward depends on all
    earlier actions. Its variance is high. It is unbiased only for γ = 1 and λ = 1: with discounted
    advantages, the second derivative lacks the factor γ^(t' − t) of a pair of actions. The value of
    the loss is always 0; only its derivatives are meaningful.
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
    """Return the surrogate −mean(π/π_old · A) of a distribution on episodes.

    Args:
        distribution: π at the observations of the episodes.
        episodes: The episodes, collected with π_old.
        clip: The clipping range ε of PPO (Schulman et al. 2017, eq. 7); None disables clipping.
    """
    old = episodes.behavior.log_prob(episodes.actions)
    change = masked(distribution.log_prob(episodes.actions) - old, episodes.mask)
    if clip is None:
        return -masked_mean(torch.exp(change) * episodes.advantages, episodes.mask)
    gain = torch.exp(change.clamp(max=LARGEST)) * episodes.advantages
    bound = episodes.advantages + clip * episodes.advantages.abs()  # (1 ± ε) A with the sign of A
    return -masked_mean(torch.where(gain < bound, gain, bound), episodes.mask)


def mean_kl(distribution: Distribution, episodes: Episodes) -> Float[Tensor, ""]:
    """Return the mean KL(π_old ‖ π) over the transitions of one task."""
    return masked_mean(episodes.behavior.kl(distribution), episodes.mask)


INNER_LOSSES: dict[str, InnerLoss] = {
    "reinforce": reinforce,
    "ratio": ratio,
    "dice": dice,
    "clipped": clipped,
}
