"""MAML with a trust-region meta-update (TRPO), and its variants E-MAML and CAVIA."""

import math
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from metarl import core
from metarl.core import InnerLoop, MetaLearner, MetaParams, MetaState, Metrics, Task, tree
from metarl.core.adapt import Batches
from metarl.core.speed import chunks, processes
from metarl.rl import stability
from metarl.rl.episodes import chunk_of, masked, masked_mean, zero_task_padding
from metarl.rl.methods import takes_options_of
from metarl.rl.objective import Linearization, PostAdaptationObjective
from metarl.rl.policies import CONTEXT, Policy
from metarl.util import above, at_least, check_arguments, greater_than, inside


@chunks.one_thread_per_operator()
def trust_region_step(
    objective: PostAdaptationObjective,
    meta: MetaParams,
    tasks: Task,
    *,
    max_kl: Annotated[float, greater_than(0)] = 0.01,
    cg_steps: Annotated[int, at_least(1)] = 10,
    cg_damping: Annotated[float, at_least(0)] = 1e-5,
    backtracks: Annotated[int, at_least(1)] = 15,
    backtrack_ratio: Annotated[float, inside(0, 1)] = 0.8,
    fisher_fraction: Annotated[float, above(0, 1)] = 1.0,
    chunk_size: int | None = None,
) -> tuple[MetaParams, Metrics]:
    """Take one trust-region step: minimize the surrogate subject to mean KL(old ‖ new) ≤ `max_kl`.

    The step is −sqrt(2 δ / sᵀHs) · s. Conjugate gradients compute s ≈ (H +
    damping)⁻¹ g from the gradient g and the exact Fisher matrix H = JᵀFJ. A
    line search tries up to `backtracks` step lengths, starting with the full
    step, and accepts the first step that improves the surrogate and satisfies
    the KL constraint. Learned inner step sizes are updated like all other
    meta-parameters.

    Args:
        objective: The post-adaptation objective.
        meta: The meta-parameters that collected `tasks`.
        tasks: The meta-batch.
        max_kl: Trust-region radius δ, the maximum mean KL divergence in nats.
        cg_steps: Number of conjugate-gradient steps; each step computes one Fisher-vector product.
        cg_damping: Damping added to the diagonal of the Fisher matrix.
        backtracks: Maximum number of step lengths that the line search tries.
        backtrack_ratio: Ratio of each step length in the line search to the previous step length.
        fisher_fraction: Fraction of each task's episodes used in
            Fisher-vector products. Lower values make the products faster and
            the step direction noisier. The surrogate, its gradient and the
            line search use all episodes.
        chunk_size: Number of tasks processed at a time. If not set, the
            number that fits into the CPU cache, or all tasks on a GPU.

    Returns:
        The new meta-parameters, or `meta` if the line search accepted no step,
        and the metrics ``gradient/outer`` (norm of the gradient),
        ``trpo/surrogate`` (before the step), ``trpo/improvement``,
        ``trpo/kl``, ``trpo/cg_residual`` (relative to the gradient) and
        ``trpo/step_fraction`` (length of the accepted step relative to the
        full step; 0 if no step was accepted).

    Raises:
        FloatingPointError: If the surrogate, its gradient or the step is not finite.
        ValueError: If an argument is out of its range.
    """
    check_arguments(
        trust_region_step,
        max_kl=max_kl,
        cg_steps=cg_steps,
        cg_damping=cg_damping,
        backtracks=backtracks,
        backtrack_ratio=backtrack_ratio,
        fisher_fraction=fisher_fraction,
    )
    tasks = zero_task_padding(tasks)
    num_tasks, device = processes.count(tasks.query.mask.shape[0]), tasks.query.mask.device

    def mean(function: Any, items: list[Any]) -> Any:
        results = chunks.parallel_map(function, items, device=device)
        return tree.scale(processes.total(results), 1 / num_tasks)

    def split(tasks: Task) -> list[Task]:
        return chunks.split(tasks, chunk_size or chunk_of(tasks.query))

    def linearize(part: Task) -> Linearization:
        return objective.linearize(meta, part)

    parts = split(tasks)
    if fisher_fraction < 1:  # only the products keep residuals, which are as large as the episodes
        before, gradient = mean(lambda part: linearize(part)[:2], parts)
        kept = math.ceil(fisher_fraction * tasks.query.mask.shape[2])
        fewer = tree.map_leaves(lambda x: x[:, :, :kept].contiguous(), tasks)
        at_old = chunks.parallel_map(linearize, split(fewer), device=device)
    else:
        at_old = chunks.parallel_map(linearize, parts, device=device)
        before, gradient = mean(lambda part: part[:2], at_old)
    slope = tree.norm(gradient)
    if not (torch.isfinite(before) and torch.isfinite(slope)):
        raise FloatingPointError(
            f"the surrogate loss and its gradient must be finite, got loss {before.item():g} and "
            f"gradient norm {slope.item():g}. Lower inner_lr or max_kl"
        )

    def damped(vector: MetaParams) -> MetaParams:
        fisher: MetaParams = mean(lambda c: c.fisher(vector), at_old)
        return tree.add(fisher, vector, scale=cg_damping)

    solution, residual = core.conjugate_gradient(damped, gradient, steps=cg_steps)
    # sᵀHs without damping needs no product: H s = g − residual − damping · s.
    image = tree.add(tree.add(gradient, residual, scale=-1.0), solution, scale=-cg_damping)
    curvature = tree.dot(solution, image)
    curvature = curvature.clamp(min=torch.finfo(curvature.dtype).tiny)
    step = tree.scale(solution, -torch.sqrt(2 * max_kl / curvature))
    if not torch.isfinite(tree.norm(step)):
        raise FloatingPointError(
            "the step from conjugate gradients must be finite, got norm "
            f"{tree.norm(step).item():g}. To fix this, {stability.ADVICE}, or increase cg_damping"
        )
    del at_old  # frees the residuals before the line search

    values = chunks.parallel_map(lambda p: objective.values(meta, p), parts, device=device)
    accepted: dict[str, Any] = {"improvement": 0.0, "kl": 0.0, "step_fraction": 0.0}
    fraction = 1.0
    for _ in range(backtracks):
        candidate = tree.add(meta, step, scale=fraction)
        after, kl = mean(lambda value, at=candidate: value(at), values)
        if after < before and kl <= max_kl:
            meta = candidate
            accepted = {"improvement": before - after, "kl": kl, "step_fraction": fraction}
            break
        fraction *= backtrack_ratio
    return meta, {
        "gradient/outer": slope,
        "trpo/surrogate": before,
        "trpo/cg_residual": tree.norm(residual) / slope,
        **{f"trpo/{name}": before.new_tensor(float(value)) for name, value in accepted.items()},
    }


@takes_options_of(trust_region_step)
def maml_trpo(
    policy: Policy, loop: InnerLoop, *, term: core.LossFn | None = None, **options: Any
) -> MetaLearner:
    """Build MAML with a trust-region meta-update (Finn et al. 2017, section 4.2 and algorithm 3).

    With ``loop.num_steps=0``, the method is TRPO on the mixture of all tasks:
    the paper's pretrained baseline or, if the policy observes the task, the
    paper's oracle. With ``loop.first_order``, the method is FOMAML-TRPO.

    Args:
        policy: The policy.
        loop: The inner loop, with a policy-gradient loss of the same policy.
        term: Additional loss of the initialization; see
            :class:`~metarl.rl.objective.PostAdaptationObjective`. None adds
            no loss.
        options: Arguments of :func:`trust_region_step`: ``max_kl=0.01``,
            ``cg_steps=10``, ``cg_damping=1e-5``, ``backtracks=15``,
            ``backtrack_ratio=0.8``, ``fisher_fraction=1.0``, ``chunk_size=None``.

    Returns:
        A meta-learner. The meta-batches that it receives must be collected by
        :meth:`Sampler.collect` with the same loop and the current
        ``state.params``. A step reports the metrics of :func:`trust_region_step`,
        and ``state.optimizer`` is None.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If an option is out of its range.

    Example::

        # policy, params and tasks as in the docstring of metarl.rl
        loop = InnerLoop(reinforce(policy), sgd(0.1), num_steps=1)
        learner = maml_trpo(policy, loop, max_kl=0.01)
        state = learner.init(params)
        state, metrics = learner.step(state, tasks)
        metrics["trpo/kl"]  # at most 0.01
    """
    check_arguments(trust_region_step, **options)
    objective = PostAdaptationObjective(policy, loop, term)
    rejected = stability.RejectedSteps()

    def init(
        params: Any, generator: torch.Generator | None = None, *, device: Any = "cpu"
    ) -> MetaState:
        return MetaState(core.initial_params(loop, params, generator, device))

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        params, metrics = trust_region_step(objective, state.params, tasks, **options)
        rejected.add(accepted=bool(metrics["trpo/step_fraction"]))
        return MetaState(params), metrics

    return MetaLearner(init, step, loop.adapt)


@takes_options_of(trust_region_step)
def e_maml(policy: Policy, loop: InnerLoop, **options: Any) -> MetaLearner:
    """Build E-MAML: MAML-TRPO with an exploration term (Stadie et al. 2018).

    Args:
        policy: The policy.
        loop: The inner loop, with a policy-gradient loss of the same policy.
        options: Arguments of :func:`~metarl.rl.trpo.trust_region_step`, such as ``max_kl=0.01``.

    Returns:
        A meta-learner with the same requirements as the result of :func:`maml_trpo`.
    """
    learner: MetaLearner = maml_trpo(policy, loop, term=exploration(policy), **options)

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        return learner.step(state, standardize_rewards(tasks))

    return learner._replace(step=step)


def exploration(policy: Policy) -> core.LossFn:
    """Return the loss −mean(log π_θ(a|s) before adaptation) · mean(reward after adaptation).

    The second factor is constant: the task's mean reward, standardized over
    all tasks by :func:`standardize_rewards`. The gradient of the loss is the
    score term of the *sampling* distribution before adaptation (Stadie et al.
    2018, eq. 9, applied to the whole batch). With several inner steps, only
    the episodes before the first step are used.

    Args:
        policy: The policy.

    Returns:
        A loss ``(params, task) -> scalar`` of the parameters before adaptation.
    """

    def term(params: core.Params, task: Task) -> Float[Tensor, ""]:
        if not task.support:  # zero inner steps
            return 0.0 * params[next(iter(params))].sum()
        first = task.support[0]
        log_prob = policy.unroll(params, first).log_prob(first.actions)
        credit = masked_mean(task.query.rewards, task.query.mask)
        return -masked_mean(log_prob, first.mask) * credit

    return term


@chunks.one_thread_per_operator()
def standardize_rewards(tasks: Task) -> Task:
    """Standardize query rewards to mean 0 and standard deviation 1 over the whole meta-batch.

    The mean and standard deviation are computed over the transitions of all tasks in all processes.
    """
    rewards, mask = tasks.query.rewards, tasks.query.mask
    count = _total(mask.to(rewards.dtype))
    centered = masked(rewards - _total(masked(rewards, mask)) / count, mask)
    std = torch.sqrt(_total(centered.square()) / count)
    return tasks._replace(query=tasks.query._replace(rewards=centered / (std + 1e-8)))


def _total(values: Float[Tensor, "task time episode"]) -> Float[Tensor, ""]:
    return processes.total([own.sum() for own in values.unbind()])


def context_loop(loop: InnerLoop, size: int) -> InnerLoop:
    """Return an inner loop for CAVIA, in which only context parameters adapt.

    The context parameters start at zero in every task and are not
    meta-learned (Zintgraf et al. 2019).

    Args:
        loop: The inner loop to copy.
        size: Number of context parameters in the policy.
    """

    def start(params: core.Params, batches: Batches) -> tuple[core.Params, Batches]:
        like = next(iter(params.values()))
        return {**params, CONTEXT: like.new_zeros(size)}, batches

    supplied = frozenset({CONTEXT})
    return replace(loop, start=start, fast=lambda name: name == CONTEXT, supplied=supplied)
