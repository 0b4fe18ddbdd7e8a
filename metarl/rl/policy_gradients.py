"""Meta-updates by gradient descent: VPG-MAML, Reptile, and what MAML-PPO and ProMP build on."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.func import vmap

from metarl.core.adapt import InnerLoop
from metarl.core.estimators import Outer, TaskGradient, backprop, reptile
from metarl.core.inner import no_constants
from metarl.core.outer import gradient_learner
from metarl.core.speed import chunks, processes
from metarl.core.types import MetaLearner, MetaParams, MetaState, Metrics, Params, Task
from metarl.rl.episodes import chunk_of, zero_task_padding
from metarl.rl.losses import mean_kl, surrogate
from metarl.rl.policy import Policy
from metarl.util.ranges import at_least


def surrogate_loss(
    policy: Policy, *, clip: float | None = None, kl_coefficients: Sequence[float] = ()
) -> Outer:
    """Build the outer loss of one task: the surrogate of the adapted policy on the query episodes.

    At the parameters that collected the episodes its gradient is that of log π · A.

    Args:
        policy: The policy.
        clip: ε of PPO's clipped form; ``None`` does not clip.
        kl_coefficients: η of each inner step k: adds η KL(π_old ‖ π) of the policy *before* that
            step on the episodes that it collected (ProMP, Rothfuss et al. 2019, eq. 13).
    """

    def outer(path: list[Params], task: Task) -> tuple[Tensor, Metrics]:
        adapted = policy.unroll(path[-1], task.query)
        loss = surrogate(adapted, task.query, clip=clip)
        metrics = {"outer/surrogate": loss, "outer/kl": mean_kl(adapted, task.query)}
        # Reptile's path only has its two ends.
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
    estimator: Any = backprop,
    epochs: int = 1,
    optimizer: Any = torch.optim.Adam,
    chunk_size: int | None = None,
    **options: Any,
) -> MetaLearner:
    """Build a meta-learner that takes gradient steps on every meta-batch of episodes.

    Args:
        loop: The inner loop; its loss is a policy-gradient loss.
        outer: The outer loss of one task, ``(path, task) -> (loss, metrics)``, such as
            :func:`surrogate_loss`.
        estimator: ``backprop`` or ``reptile``.
        epochs: Steps on the same episodes; the inner loop is run again for each.
        optimizer: A class of ``torch.optim``.
        chunk_size: Tasks worked on at a time; by default what suits the cache.
        options: Of the optimizer, such as ``lr=1e-3``.

    Returns:
        The learner. Its metrics are the norm of the gradient and the loss of the first step, the
        metrics of the outer loss after the last step, and ``outer/improvement``: how much smaller
        the outer loss became; without its penalties if it reports ``outer/surrogate``.
    """
    task_gradient: TaskGradient = estimator(loop, outer)

    def learner_of(size: int | None) -> MetaLearner:
        return gradient_learner(loop, task_gradient, optimizer, chunk_size=size, **options)

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        tasks = zero_task_padding(tasks)
        learner = learner_of(chunk_size or chunk_of(tasks.query))
        state, first = learner.step(state, tasks)
        for _ in range(epochs - 1):
            state, _ = learner.step(state, tasks)
        after = evaluate_batch(loop, outer, state.params, tasks, chunk_size)
        measured = "outer/surrogate" if "outer/surrogate" in after else "outer/loss"
        improvement = first[measured] - after[measured]
        kept = {name: first[name] for name in ("gradient/outer", "outer/loss")}
        return state, after | kept | {"outer/improvement": improvement}

    return learner_of(chunk_size)._replace(step=step)


def vpg_maml(
    policy: Policy,
    loop: InnerLoop,
    *,
    outer_lr: Annotated[float, at_least(0)] = 1e-3,
    epochs: Annotated[int, at_least(1)] = 1,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Build MAML with Adam on the policy gradient (Finn et al. 2017, alg. 3 without TRPO).

    Args:
        policy: The policy.
        loop: The inner loop.
        outer_lr: Step size of the meta-update.
        epochs: Gradient steps on every meta-batch of episodes.
        chunk_size: See :func:`policy_gradient`.
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
    """Build Reptile on policies (Nichol et al. 2018): no second derivatives, no trust region.

    It learns what several inner steps have in common on all tasks; with one inner step it is joint
    training. The episodes after the last step are for the metrics only.

    Args:
        policy: The policy.
        loop: The inner loop.
        outer_lr: Fraction of the way to the mean of the adapted policies that a meta-update goes.
        epochs: Gradient steps on every meta-batch of episodes.
        chunk_size: See :func:`policy_gradient`.

    Raises:
        ValueError: If the loop takes no steps, is first order, or learns rates.
    """
    if not loop.num_steps:
        raise ValueError(f"reptile needs inner_steps of at least 1, got {loop.num_steps}")
    if loop.first_order:
        raise ValueError("reptile has no second derivatives to drop; leave out first_order")
    if loop.optimizer.constants is not no_constants:
        raise ValueError("reptile learns no rates; use sgd or adam as the inner optimizer")
    return policy_gradient(
        loop, surrogate_loss(policy), estimator=reptile, optimizer=torch.optim.SGD,
        lr=outer_lr, epochs=epochs, chunk_size=chunk_size,
    )  # fmt: skip


def evaluate_batch(
    loop: InnerLoop, outer: Outer, meta: MetaParams, tasks: Task, chunk_size: int | None
) -> Metrics:
    """Return the mean outer loss and its mean metrics, without any gradient.

    Args:
        loop: The inner loop.
        outer: The outer loss.
        meta: Meta-parameters.
        tasks: A meta-batch.
        chunk_size: See :func:`policy_gradient`.
    """
    parts = chunks.split(tasks, chunk_size or chunk_of(tasks.query))

    def of_task(task: Task) -> Metrics:
        loss, metrics = outer(loop.path(meta, task.support), task)
        return {"outer/loss": loss, **metrics}

    def of_part(part: Task) -> Metrics:
        return {name: value.sum() for name, value in vmap(of_task)(part).items()}

    with torch.no_grad():
        found = chunks.parallel_map(of_part, parts, device=tasks.query.mask.device)
    count = processes.count(tasks.query.mask.shape[0])
    return {name: value / count for name, value in processes.total(found).items()}
