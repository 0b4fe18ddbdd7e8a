"""E-MAML: credit for what the episodes before adaptation explored (Stadie et al. 2018)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core.adapt import InnerLoop
from metarl.core.speed import chunks, processes
from metarl.core.types import LossFn, MetaLearner, MetaState, Metrics, Params, Task
from metarl.rl.episodes import masked, masked_mean
from metarl.rl.maml_trpo import maml_trpo
from metarl.rl.methods import takes_options_of
from metarl.rl.policies import Policy
from metarl.rl.trpo import trust_region_step


@takes_options_of(trust_region_step)
def e_maml(policy: Policy, loop: InnerLoop, **options: Any) -> MetaLearner:
    """Build MAML-TRPO with the exploration term.

    Args:
        policy: The policy.
        loop: The inner loop.
        options: See :func:`~metarl.rl.maml_trpo.maml_trpo`.
    """
    learner = maml_trpo(policy, loop, term=exploration(policy), **options)

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        return learner.step(state, standardize_rewards(tasks))

    return learner._replace(step=step)


def exploration(policy: Policy) -> LossFn:
    """Build −mean(log π_θ(a|s) of the first episodes) · mean(reward after adaptation) of one task.

    The second factor is a constant: how well this task went, beside the others. It is the score
    term that the pre-update *sampling* distribution adds to the gradient (Stadie et al. 2018,
    eq. 9, for the whole batch at once); with several inner steps the first episodes stand for all.
    """

    def term(params: Params, task: Task) -> Float[Tensor, ""]:
        if not task.support:  # nothing came before
            return 0.0 * params[next(iter(params))].sum()
        first = task.support[0]
        log_prob = policy(params, first.observations).log_prob(first.actions)
        credit = masked_mean(task.query.rewards, task.query.mask)
        return -masked_mean(log_prob, first.mask) * credit

    return term


@chunks.one_thread_per_operator()
def standardize_rewards(tasks: Task) -> Task:
    """Standardize the query rewards over the transitions of the whole meta-batch.

    Where processes share the meta-batch, over those of all.
    """
    rewards, mask = tasks.query.rewards, tasks.query.mask
    count = _total(mask.to(rewards.dtype))
    centered = masked(rewards - _total(masked(rewards, mask)) / count, mask)
    std = torch.sqrt(_total(centered.square()) / count)
    return tasks._replace(query=tasks.query._replace(rewards=centered / (std + 1e-8)))


def _total(values: Float[Tensor, "task time episode"]) -> Float[Tensor, ""]:
    total: Tensor = processes.total([{"sum": own.sum()} for own in values.unbind()])["sum"]
    return total
