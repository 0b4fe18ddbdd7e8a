"""Meta-updates by gradient descent: VPG-MAML, MAML-PPO, and what ProMP and Reptile build on."""

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
from metarl.rl.episodes import zero_task_padding
from metarl.rl.losses import mean_kl, surrogate
from metarl.rl.policies import Policy
from metarl.util.ranges import at_least, greater_than


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
        adapted = policy(path[-1], task.query.observations)
        loss = surrogate(adapted, task.query, clip=clip)
        metrics = {"outer/surrogate": loss, "outer/kl": mean_kl(adapted, task.query)}
        # Reptile's path has its two ends alone.
        for index, (params, batch) in enumerate(zip(path[:-1], task.support, strict=False)):
            kl = mean_kl(policy(params, batch.observations), batch)
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
        outer: The outer loss, such as :func:`surrogate_loss`.
        estimator: ``backprop`` or ``reptile``.
        epochs: Steps on the same episodes; the inner loop is run again for each.
        optimizer: A class of ``torch.optim``.
        chunk_size: Tasks worked on at a time; by default what suits the cache.
        options: Of the optimizer, such as ``lr=1e-3``.

    Returns:
        The learner. Beside those of the first step its metrics have what the outer loss says
        after the last one, ``outer/kl`` and the like, and how much smaller it became.
    """
    task_gradient: TaskGradient = estimator(loop, outer)

    def learner_of(tasks: Task) -> MetaLearner:
        size = chunk_size or chunk_of(tasks)
        return gradient_learner(loop, task_gradient, optimizer, chunk_size=size, **options)

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        tasks = zero_task_padding(tasks)
        learner = learner_of(tasks)
        state, first = learner.step(state, tasks)
        for _ in range(epochs - 1):
            state, _ = learner.step(state, tasks)
        after = judge(loop, outer, state.params, tasks, chunk_size)
        gained = first["outer/surrogate"] - after["outer/surrogate"]
        kept = {name: first[name] for name in ("gradient/outer", "outer/loss")}
        return state, kept | after | {"outer/improvement": gained}

    return gradient_learner(loop, task_gradient, optimizer, **options)._replace(step=step)


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
        chunk_size: See :func:`policy_gradient`.
    """
    outer = surrogate_loss(policy, clip=clip)
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


def judge(
    loop: InnerLoop, outer: Outer, meta: MetaParams, tasks: Task, chunk_size: int | None
) -> Metrics:
    """Return the mean metrics of the outer loss, without any gradient to the meta-parameters."""
    parts = chunks.split(tasks, chunk_size or chunk_of(tasks))

    def metrics(part: Task) -> Metrics:
        each = vmap(lambda task: outer(loop.path(meta, task.support), task)[1])(part)
        return {name: value.sum() for name, value in each.items()}

    with torch.no_grad():
        found = chunks.parallel_map(metrics, parts, device=tasks.query.mask.device)
    count = processes.count(tasks.query.mask.shape[0])
    return {name: value / count for name, value in processes.total(found).items()}


def chunk_of(tasks: Task) -> int:
    """Return how many tasks of a meta-batch of episodes make a chunk that stays in the cache."""
    mask = tasks.query.mask
    return chunks.cache_sized(mask[0].numel(), processes.count(len(mask)), mask.device) or len(mask)
