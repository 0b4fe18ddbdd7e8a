"""MAML with a trust-region meta-update, and its variants E-MAML and CAVIA."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core.adapt import Batches, InnerLoop
from metarl.core.outer import initial_params
from metarl.core.speed import chunks, processes
from metarl.core.types import LossFn, MetaLearner, MetaState, Metrics, Params, Task
from metarl.rl.episodes import masked, masked_mean
from metarl.rl.methods import takes_options_of
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import CONTEXT
from metarl.rl.policy import Policy
from metarl.rl.trpo import trust_region_step


@takes_options_of(trust_region_step)
def maml_trpo(
    policy: Policy, loop: InnerLoop, *, term: LossFn | None = None, **options: Any
) -> MetaLearner:
    """Build MAML with a trust-region meta-update (Finn et al. 2017, section 4.2 and algorithm 3).

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


@takes_options_of(trust_region_step)
def e_maml(policy: Policy, loop: InnerLoop, **options: Any) -> MetaLearner:
    """Build MAML-TRPO with the exploration term (Stadie et al. 2018).

    Args:
        policy: The policy.
        loop: The inner loop.
        options: See :func:`maml_trpo`.
    """
    learner: MetaLearner = maml_trpo(policy, loop, term=exploration(policy), **options)

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
        log_prob = policy.unroll(params, first).log_prob(first.actions)
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


def context_loop(loop: InnerLoop, size: int) -> InnerLoop:
    """Return `loop` for CAVIA: only `size` context parameters adapt (Zintgraf et al. 2019).

    They start at zero in every task and are no meta-parameters: what is learned is how the policy
    reads them.

    Args:
        loop: The inner loop.
        size: Number of context parameters of the policy.
    """

    def start(params: Params, batches: Batches) -> tuple[Params, Batches]:
        like = next(iter(params.values()))
        return {**params, CONTEXT: like.new_zeros(size)}, batches

    supplied = frozenset({CONTEXT})
    return replace(loop, start=start, fast=lambda name: name == CONTEXT, supplied=supplied)
