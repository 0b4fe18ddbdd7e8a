"""MAML with a trust-region meta-update (Finn et al. 2017, section 4.2 and algorithm 3)."""

from typing import Any

import torch

from metarl.core.adapt import InnerLoop
from metarl.core.outer import initial_params
from metarl.core.types import LossFn, MetaLearner, MetaState, Metrics, Task
from metarl.rl.methods import takes_options_of
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import Policy
from metarl.rl.trpo import trust_region_step


@takes_options_of(trust_region_step)
def maml_trpo(
    policy: Policy, loop: InnerLoop, *, term: LossFn | None = None, **options: Any
) -> MetaLearner:
    """Build the meta-learner.

    With ``loop.num_steps`` 0 it is TRPO on the mixture of all tasks (the paper's pretrained
    baseline, and with the task observed its oracle); with ``loop.first_order``, FOMAML-TRPO.

    Args:
        policy: The policy.
        loop: The inner loop; its loss is a policy-gradient loss of the same policy.
        term: See :class:`~metarl.rl.objective.PostAdaptationObjective`.
        options: Of :func:`~metarl.rl.trpo.trust_region_step`, such as ``max_kl=0.01``.
    """
    objective = PostAdaptationObjective(policy, loop, term)

    def init(
        params: Any, generator: torch.Generator | None = None, *, device: Any = "cpu"
    ) -> MetaState:
        return MetaState(initial_params(loop, params, generator, device))

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        params, metrics = trust_region_step(objective, state.params, tasks, **options)
        return MetaState(params), metrics

    return MetaLearner(init, step, loop.adapt)
