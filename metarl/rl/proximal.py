"""Proximal meta-updates, whose probability ratios are clipped: MAML-PPO and ProMP."""

from functools import lru_cache
from typing import Annotated, Any

import torch
from torch import Tensor

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner, MetaState, Metrics, Task
from metarl.rl.policy import Policy
from metarl.rl.policy_gradients import policy_gradient, surrogate_loss
from metarl.util.ranges import at_least, greater_than


COEFFICIENT = "kl_coefficient"
BAND = 1.5  # how far from the target a KL may be, as a factor, before its coefficient changes
REACH = 2.0**10  # how far a coefficient may go, as a factor: it has to find its way back


def maml_ppo(
    policy: Policy,
    loop: InnerLoop,
    *,
    clip: Annotated[float, greater_than(0)] = 0.5,
    outer_lr: Annotated[float, at_least(0)] = 1e-3,
    epochs: Annotated[int, at_least(1)] = 5,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Build MAML whose outer loss is PPO's (Schulman et al. 2017, eq. 7).

    Args:
        policy: The policy.
        loop: The inner loop.
        clip: How far from 1 a probability ratio of the outer loss may move.
        outer_lr: Step size of the meta-update.
        epochs: Gradient steps on every meta-batch of episodes.
        chunk_size: See :func:`~metarl.rl.policy_gradients.policy_gradient`.
    """
    outer = surrogate_loss(policy, clip=clip)
    return policy_gradient(loop, outer, lr=outer_lr, epochs=epochs, chunk_size=chunk_size)


def promp(
    policy: Policy,
    loop: InnerLoop,
    *,
    clip: Annotated[float, greater_than(0)] = 0.3,
    kl_coefficient: Annotated[float, at_least(0)] = 5e-4,
    kl_target: Annotated[float | None, greater_than(0)] = 0.01,
    outer_lr: Annotated[float, at_least(0)] = 1e-3,
    epochs: Annotated[int, at_least(1)] = 5,
    chunk_size: int | None = None,
    **options: Any,
) -> MetaLearner:
    """Build ProMP, proximal meta-policy search (Rothfuss et al. 2019, section 6).

    The outer loss is clipped, with a KL penalty on the policies before each inner step.

    Args:
        policy: The policy.
        loop: The inner loop; the paper's loss is the likelihood ratio.
        clip: How far from 1 a probability ratio of the outer loss may move.
        kl_coefficient: Weight of the KL penalty of every inner step to begin with.
        kl_target: KL that halving and doubling the weight aims at; None leaves the weight as it is.
        outer_lr: Step size of the meta-update.
        epochs: Gradient steps on every meta-batch of episodes.
        chunk_size: See :func:`~metarl.rl.policy_gradients.policy_gradient`.
        options: Of :func:`~metarl.rl.policy_gradients.policy_gradient`: ``optimizer``, ...
    """

    @lru_cache(maxsize=1)  # η changes now and then, and most often not
    def learner_of(*coefficients: float) -> MetaLearner:
        outer = surrogate_loss(policy, clip=clip, kl_coefficients=coefficients)
        return policy_gradient(
            loop, outer, lr=outer_lr, epochs=epochs, chunk_size=chunk_size, **options
        )

    def init(*args: Any, **kwargs: Any) -> MetaState:
        state: MetaState = learner_of().init(*args, **kwargs)
        eta = torch.full((loop.num_steps or 0,), kl_coefficient, dtype=torch.float64)
        return state._replace(own={COEFFICIENT: eta})

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        eta = state.own[COEFFICIENT]
        state, metrics = learner_of(*eta.tolist()).step(state, tasks)
        if len(eta):
            metrics |= {f"outer/kl_coefficient_{k}": x for k, x in enumerate(eta)}
        if kl_target is not None and len(eta):
            reached = torch.stack([metrics[f"outer/kl_step_{k}"] for k in range(len(eta))])
            eta = adapted(eta, reached.to(eta), kl_target)
            eta = eta.clamp(kl_coefficient / REACH, kl_coefficient * REACH)
            state = state._replace(own={COEFFICIENT: eta})
        return state, metrics

    return MetaLearner(init, step, loop.adapt)


def adapted(coefficients: Tensor, reached: Tensor, target: float) -> Tensor:
    """Halve η where the KL reached is far below the target, and double it where it is far above.

    The rule of Schulman et al. 2017, section 4, as ProMP uses it: far is a factor of 1.5.
    """
    halved = torch.where(reached < target / BAND, coefficients / 2, coefficients)
    return torch.where(reached > target * BAND, coefficients * 2, halved)
