"""Meta-updates by gradient descent: VPG-MAML, Reptile, and what MAML-PPO and ProMP build on."""

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
from metarl.util import at_least, greater_than


COEFFICIENT = "kl_coefficient"
BAND = 1.5  # how far from the target a KL may be, as a factor, before its coefficient changes
REACH = 2.0**10  # how far a coefficient may go, as a factor: it has to find its way back


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

    def outer(path: list[core.Params], task: Task) -> tuple[Tensor, Metrics]:
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
    estimator: Any = core.backprop,
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
    learner_of = partial(core.gradient_learner, loop, estimator(loop, outer), optimizer, **options)

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        tasks = zero_task_padding(tasks)
        size = chunk_size or chunk_of(tasks.query)
        learner = learner_of(chunk_size=size)
        state, first = learner.step(state, tasks)
        for _ in range(epochs - 1):
            state, _ = learner.step(state, tasks)
        after = evaluate_batch(loop, outer, state.params, tasks, size)
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
    if loop.optimizer.constants is not core.no_constants:
        raise ValueError("reptile learns no rates; use sgd or adam as the inner optimizer")
    return policy_gradient(
        loop, surrogate_loss(policy), estimator=core.reptile, optimizer=torch.optim.SGD,
        lr=outer_lr, epochs=epochs, chunk_size=chunk_size,
    )  # fmt: skip


def evaluate_batch(
    loop: InnerLoop, outer: Outer, meta: MetaParams, tasks: Task, chunk_size: int
) -> Metrics:
    """Return the mean outer loss and its mean metrics, without any gradient.

    Args:
        loop: The inner loop.
        outer: The outer loss.
        meta: Meta-parameters.
        tasks: A meta-batch.
        chunk_size: Tasks worked on at a time.
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
    """Halve η where the KL reached is far below the target, and double it where it is far above.

    The rule of Schulman et al. 2017, section 4, as ProMP uses it: far is a factor of 1.5.
    """
    halved = torch.where(reached < target / BAND, coefficients / 2, coefficients)
    return torch.where(reached > target * BAND, coefficients * 2, halved)
