"""Policy-gradient losses of one task, ready for the inner loop."""

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

LARGEST = 20.0  # log ratio: beyond, exp overflows and a clipped gain's derivative is 0 · ∞


def reinforce(policy: Policy) -> LossFn:
    """Build −mean(log π(a|s) · A) (Finn et al. 2017, eq. 4).

    Its second derivative keeps ∇² log π and drops the score term: what the paper's code computes.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        log_prob = policy.unroll(params, episodes).log_prob(episodes.actions)
        return -masked_mean(log_prob * episodes.advantages, episodes.mask)

    return loss


def ratio(policy: Policy) -> LossFn:
    """Build −mean(π(a|s) / π_old(a|s) · A): the low-variance curvature estimator.

    The value and the first derivative at π_old are those of :func:`reinforce`; the second
    derivative also has the score term (Rothfuss et al. 2019, eq. 8).
    """
    return clipped(policy, clip=None)


def clipped(policy: Policy, *, clip: float | None = 0.5) -> LossFn:
    """Build PPO's loss, −mean(min(r A, clip(r, 1 ± ε) A)) with r = π / π_old, for the inner steps.

    Its derivatives at π_old are those of :func:`ratio`. ε is that of MAML-PPO (garage).

    Args:
        policy: The policy.
        clip: ε; ``None`` does not clip.
    """

    def loss(params: Params, episodes: Episodes) -> Float[Tensor, ""]:
        return surrogate(policy.unroll(params, episodes), episodes, clip=clip)

    return loss


def dice(policy: Policy) -> LossFn:
    """Build DiCE with advantages, −mean((□(≤t) − □(<t)) A), right in derivatives of every order.

    □(≤t) = exp(c − ⊥c) with c = Σ_{t' ≤ t} log π(a_t'|s_t') (Foerster et al. 2018, eq. 4, with the
    advantages of Farquhar et al. 2019, eq. 12): the first derivative is that of :func:`reinforce`,
    and the second knows that every reward depends on all actions before it. Its variance is high.
    With discounted advantages the second derivative counts a pair of actions as often as the first
    counts the later one, without the γ^(t' − t) between them: unbiased is γ = 1 with λ = 1.
    The value is 0 wherever it is evaluated: it is there to be differentiated.
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
    """Return −mean(π/π_old · A) of a distribution at the observations of the episodes.

    Args:
        distribution: π at the observations.
        episodes: The episodes, drawn from π_old.
        clip: ε of PPO's clipped form (Schulman et al. 2017, eq. 7); ``None`` does not clip.
    """
    old = episodes.behavior.log_prob(episodes.actions)
    change = masked(distribution.log_prob(episodes.actions) - old, episodes.mask)
    if clip is None:
        return -masked_mean(torch.exp(change) * episodes.advantages, episodes.mask)
    gain = torch.exp(change.clamp(max=LARGEST)) * episodes.advantages
    bound = episodes.advantages + clip * episodes.advantages.abs()  # (1 ± ε) A by A's sign
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
