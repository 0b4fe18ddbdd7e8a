"""Meta-updates by gradient descent: VPG-MAML, Reptile, MAML-PPO and ProMP."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.func import vmap

from metarl import core
from metarl.core import InnerLoop, MetaLearner, MetaParams, MetaState, Metrics, Outer, Task, tree
from metarl.core.speed import chunks, processes
from metarl.rl.episodes import chunk_of, zero_task_padding
from metarl.rl.losses import mean_kl, surrogate
from metarl.rl.policies import Policy
from metarl.rl.stability import warn_of_large_kl
from metarl.util import at_least, greater_than


COEFFICIENT = "kl_coefficient"
BAND = 1.5  # factor between KL and target at which the coefficient changes
REACH = 2.0**10  # largest factor between a coefficient and its initial value


def surrogate_loss(
    policy: Policy, *, clip: float | None = None, kl_coefficients: Sequence[float] = ()
) -> Outer:
    """Return an outer loss: the adapted policy's surrogate loss on the query episodes of one task.

    At the parameters that collected the episodes, the gradient of this loss is the policy gradient.

    Args:
        policy: The policy.
        clip: PPO's clipping range ε; None disables clipping.
        kl_coefficients: Coefficients η for KL penalties, one per inner step.
            The penalty for a step is η KL(π_old ‖ π) of the policy *before* the
            step, on the episodes collected by this policy (ProMP, Rothfuss et
            al. 2019, eq. 13). An empty sequence disables the penalties.
    """

    def outer(path: list[core.Params], task: Task) -> tuple[Tensor, Metrics]:
        adapted = policy.unroll(path[-1], task.query)
        loss = surrogate(adapted, task.query, clip=clip)
        metrics = {"outer/surrogate": loss, "outer/kl": mean_kl(adapted, task.query)}
        # The path of Reptile contains only its first and last parameters.
        for index, (params, batch) in enumerate(zip(path[:-1], task.support, strict=False)):
            kl = mean_kl(policy.unroll(params, batch), batch)
            metrics[f"outer/kl_step_{index}"] = kl
            if kl_coefficients:
                loss = loss + kl_coefficients[index] * kl
        return loss, metrics

    return outer


def policy_gradient(
    loop: InnerLoop,
    outer: Outer,
    *,
    estimator: Any = core.backprop,
    epochs: int = 1,
    optimizer: Any = torch.optim.Adam,
    chunk_size: int | None = None,
    **options: Any,
) -> MetaLearner:
    """Return a meta-learner that takes gradient steps on every meta-batch of episodes.

    Args:
        loop: The inner loop, with a policy-gradient loss.
        outer: The outer loss of one task, ``(path, task) -> (loss, metrics)``,
            such as :func:`surrogate_loss`.
        estimator: ``backprop`` or ``reptile`` from :mod:`metarl.core`.
        epochs: Number of gradient steps per meta-batch. Each gradient step repeats the inner loop.
        optimizer: A ``torch.optim`` class.
        chunk_size: Number of tasks processed at a time. If not set, the number
            that fits into the CPU cache, or all tasks on a GPU.
        options: Arguments of the optimizer, such as ``lr=1e-3``.

    Returns:
        The meta-learner. A step reports the gradient norm and the loss of the
        first gradient step, the metrics of `outer` after the last gradient
        step, and ``outer/improvement``. The improvement is the decrease of
        ``outer/surrogate`` if `outer` reports this metric, and of the outer
        loss otherwise.
    """
    learner_of = partial(core.gradient_learner, loop, estimator(loop, outer), optimizer, **options)

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        tasks = zero_task_padding(tasks)
        size = chunk_size or chunk_of(tasks.query)
        learner = learner_of(chunk_size=size)
        state, first = learner.step(state, tasks)
        for _ in range(epochs - 1):
            state, _ = learner.step(state, tasks)
        after = evaluate_batch(loop, outer, state.params, tasks, size)
        warn_of_large_kl(after)
        measured = "outer/surrogate" if "outer/surrogate" in after else "outer/loss"
        improvement = first[measured] - after[measured]
        kept = {name: first[name] for name in ("gradient/outer", "outer/loss")}
        return state, after | kept | {"outer/improvement": improvement}

    return learner_of(chunk_size=chunk_size)._replace(step=step)


def vpg_maml(
    policy: Policy,
    loop: InnerLoop,
    *,
    outer_lr: Annotated[float, at_least(0)] = 1e-3,
    epochs: Annotated[int, at_least(1)] = 1,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return VPG-MAML: MAML with Adam on the policy gradient (Finn et al. 2017, alg. 3).

    Args:
        policy: The policy.
        loop: The inner loop.
        outer_lr: Step size for the meta-update.
        epochs: Number of gradient steps per meta-batch.
        chunk_size: Number of tasks processed at a time; see :func:`policy_gradient`.
    """
    outer = surrogate_loss(policy)
    return policy_gradient(loop, outer, lr=outer_lr, epochs=epochs, chunk_size=chunk_size)


def reptile_rl(
    policy: Policy,
    loop: InnerLoop,
    *,
    outer_lr: Annotated[float, at_least(0)] = 0.5,
    epochs: Annotated[int, at_least(1)] = 1,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return Reptile for policies (Nichol et al. 2018), without second derivatives.

    With a single inner step, Reptile is equivalent to joint training. The query
    episodes are only used for metrics.

    Args:
        policy: The policy.
        loop: The inner loop.
        outer_lr: Outer step size, as a fraction of the distance to the mean of
            the adapted parameters.
        epochs: Number of gradient steps per meta-batch.
        chunk_size: Number of tasks processed at a time; see :func:`policy_gradient`.

    Raises:
        ValueError: If the loop has no steps, has ``first_order`` set, or has learned step sizes.
    """
    if not loop.num_steps:
        raise ValueError(f"reptile requires inner_steps of at least 1, got {loop.num_steps}")
    if loop.first_order:
        raise ValueError(
            "reptile has no second derivatives that first_order could omit; remove first_order"
        )
    if loop.optimizer.constants is not core.no_constants:
        raise ValueError("reptile does not support learned step sizes; use sgd or adam")
    return policy_gradient(
        loop, surrogate_loss(policy), estimator=core.reptile, optimizer=torch.optim.SGD,
        lr=outer_lr, epochs=epochs, chunk_size=chunk_size,
    )  # fmt: skip


def evaluate_batch(
    loop: InnerLoop, outer: Outer, meta: MetaParams, tasks: Task, chunk_size: int
) -> Metrics:
    """Return an outer loss and its metrics, averaged over a meta-batch without gradients.

    Args:
        loop: The inner loop.
        outer: The outer loss of one task, ``(path, task) -> (loss, metrics)``.
        meta: The meta-parameters.
        tasks: The meta-batch.
        chunk_size: Number of tasks processed at a time.

    Returns:
        Means over the tasks of all processes; the entry ``outer/loss`` is the outer loss.
    """

    def of_part(part: Task) -> Metrics:
        loss, metrics = vmap(lambda task: outer(loop.path(meta, task.support), task))(part)
        return tree.map_leaves(torch.sum, {"outer/loss": loss, **metrics})

    with torch.no_grad():
        parts = chunks.split(tasks, chunk_size)
        found = chunks.parallel_map(of_part, parts, device=tasks.query.mask.device)
    count = processes.count(tasks.query.mask.shape[0])
    return tree.map_leaves(lambda x: x / count, processes.total(found))


def maml_ppo(
    policy: Policy,
    loop: InnerLoop,
    *,
    clip: Annotated[float, greater_than(0)] = 0.5,
    outer_lr: Annotated[float, at_least(0)] = 1e-3,
    epochs: Annotated[int, at_least(1)] = 5,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return MAML with PPO's clipped surrogate as the outer loss (Schulman et al. 2017, eq. 7).

    Args:
        policy: The policy.
        loop: The inner loop.
        clip: Clip the probability ratios in the outer loss to 1 ± this value.
        outer_lr: Step size for the meta-update.
        epochs: Number of gradient steps per meta-batch.
        chunk_size: Number of tasks processed at a time; see
            :func:`~metarl.rl.policy_gradients.policy_gradient`.
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
    """Return ProMP, proximal meta-policy search (Rothfuss et al. 2019, section 6).

    The outer loss is the clipped surrogate, with KL penalties on the policies
    before each inner step.

    Args:
        policy: The policy.
        loop: The inner loop; the paper uses the inner loss :func:`~metarl.rl.losses.ratio`.
        clip: Clip the probability ratios in the outer loss to 1 ± this value.
        kl_coefficient: Initial weight of the KL penalty for every inner step.
        kl_target: Target KL divergence in nats. A weight is doubled if the KL
            divergence exceeds 1.5 times the target, and halved if the KL
            divergence is below the target / 1.5. None keeps the initial weight.
        outer_lr: Step size for the meta-update.
        epochs: Number of gradient steps per meta-batch.
        chunk_size: Number of tasks processed at a time; see
            :func:`~metarl.rl.policy_gradients.policy_gradient`.
        options: Further arguments of
            :func:`~metarl.rl.policy_gradients.policy_gradient`, such as
            ``optimizer``.
    """

    @lru_cache(maxsize=1)  # η rarely changes
    def learner_of(*coefficients: float) -> MetaLearner:
        outer = surrogate_loss(policy, clip=clip, kl_coefficients=coefficients)
        return policy_gradient(
            loop, outer, lr=outer_lr, epochs=epochs, chunk_size=chunk_size, **options
        )

    def init(*args: Any, **kwargs: Any) -> MetaState:
        eta = torch.full((loop.num_steps or 0,), kl_coefficient, dtype=torch.float64)
        return learner_of().init(*args, **kwargs)._replace(own={COEFFICIENT: eta})

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        eta = state.own[COEFFICIENT]
        state, metrics = learner_of(*eta.tolist()).step(state, tasks)
        metrics |= {f"outer/kl_coefficient_{k}": x for k, x in enumerate(eta)}
        if kl_target is not None and len(eta):
            reached = torch.stack([metrics[f"outer/kl_step_{k}"] for k in range(len(eta))])
            eta = adapted(eta, reached.to(eta), kl_target)
            eta = eta.clamp(kl_coefficient / REACH, kl_coefficient * REACH)
        return state._replace(own={COEFFICIENT: eta}), metrics

    return MetaLearner(init, step, loop.adapt)


def adapted(coefficients: Tensor, reached: Tensor, target: float) -> Tensor:
    """Return KL coefficients after one update towards a target KL divergence.

    A coefficient is halved if the KL divergence is below the target / 1.5, and
    doubled if it is above 1.5 times the target. ProMP uses this rule from
    Schulman et al. 2017, section 4.

    Args:
        coefficients: The current coefficients, of shape (steps).
        reached: The measured KL divergence for each coefficient, of shape (steps).
        target: The target KL divergence in nats.
    """
    halved = torch.where(reached < target / BAND, coefficients / 2, coefficients)
    return torch.where(reached > target * BAND, coefficients * 2, halved)
