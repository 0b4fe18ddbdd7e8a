"""ProMP: proximal meta-policy search (Rothfuss et al. 2019, section 6)."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner, MetaState, Metrics, Task
from metarl.rl.policies import Policy
from metarl.rl.policy_gradient import policy_gradient, surrogate_loss


COEFFICIENT = "kl_coefficient"
BAND = 1.5  # how far from the target a KL may be, as a factor, before its coefficient changes
REACH = 2.0**10  # how far a coefficient may go, as a factor: it has to find its way back


def promp(
    policy: Policy,
    loop: InnerLoop,
    *,
    clip: float = 0.3,
    kl_coefficient: float = 5e-4,
    kl_target: float | None = 0.01,
    **options: Any,
) -> MetaLearner:
    """Build the meta-learner: clipped outer loss and a KL penalty on the pre-update policies.

    Args:
        policy: The policy.
        loop: The inner loop; the paper's loss is the likelihood ratio.
        clip: ε of the clipped surrogate.
        kl_coefficient: η of every inner step to begin with.
        kl_target: KL that :func:`adapted` holds the pre-update policies to; ``None`` leaves η.
        options: Of :func:`~metarl.rl.policy_gradient.policy_gradient`: ``epochs``, ``lr``, ...
    """

    @lru_cache(maxsize=1)  # η changes now and then, and most often not
    def learner_of(*coefficients: float) -> MetaLearner:
        outer = surrogate_loss(policy, clip=clip, kl_coefficients=coefficients)
        return policy_gradient(loop, outer, **options)

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
