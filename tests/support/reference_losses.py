"""References in plain autograd, one task at a time, without code of the package."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from metarl.core import LossFn, MetaParams, Params, Task, tree
from metarl.rl import distributions
from metarl.rl.episodes import Episodes
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import Policy
from tests.support.problems import LR, task_of


ALL: dict[str, Any] = {"materialize_grads": True, "allow_unused": True}


def plain_path(
    loss: LossFn, meta: MetaParams, batches: Sequence[Any], *, lr: float, first_order: bool = False
) -> list[Params]:
    """Return the adapted parameters of one task; learned rates replace `lr` if they exist."""
    path = [
        {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in meta.model.items()}
    ]
    for batch in batches:
        params = path[-1]
        grads = torch.autograd.grad(
            loss(params, batch), list(params.values()), create_graph=True, materialize_grads=True
        )
        fixed = [g.detach() if first_order else g for g in grads]
        rates = [meta.inner.get(f"lr.{name}", lr) for name in params]
        path.append({n: params[n] - r * g for n, r, g in zip(params, rates, fixed, strict=True)})
    return path


def plain_distribution(distribution: Any) -> Distribution:
    if isinstance(distribution, distributions.Gaussian):
        return Independent(Normal(distribution.mean, distribution.log_std.exp()), 1)
    return Categorical(logits=distribution.logits)


def happened(episodes: Episodes) -> Episodes:
    """Return the valid transitions of one task, one per row."""
    return tree.map_leaves(lambda x: x[episodes.mask], episodes)


def plain_reinforce(policy: Policy) -> LossFn:
    def loss(params: Params, episodes: Episodes) -> Tensor:
        real = happened(episodes)
        log_prob = plain_distribution(policy(params, real.observations)).log_prob(real.actions)
        return -(log_prob * real.advantages).mean()

    return loss


def plain_surrogate(policy: Policy, params: Params, episodes: Episodes) -> Tensor:
    real = happened(episodes)
    new = plain_distribution(policy(params, real.observations)).log_prob(real.actions)
    old = plain_distribution(real.behavior).log_prob(real.actions)
    return -((new - old).exp() * real.advantages).mean()


def plain_kl(policy: Policy, params: Params, episodes: Episodes) -> Tensor:
    real = happened(episodes)
    new = plain_distribution(policy(params, real.observations))
    return torch.distributions.kl_divergence(plain_distribution(real.behavior), new).mean()


def plain_sum(
    objective: PostAdaptationObjective, meta: MetaParams, tasks: Task, value: Callable[..., Tensor]
) -> Tensor:
    """Return the sum of a value of the adapted policy over tasks."""
    loop, policy = objective.loop, objective.policy
    total = torch.zeros((), dtype=torch.float64)
    for task in (task_of(tasks, i) for i in range(len(tasks.query.mask))):
        adapted = plain_path(
            plain_reinforce(policy), meta, task.support, lr=LR, first_order=loop.first_order
        )[-1]
        total = total + value(policy, adapted, task.query)
    return total


def attached(meta: MetaParams) -> MetaParams:
    return tree.map_leaves(lambda p: p.detach().requires_grad_(), meta)


def gradient(value: Callable[[MetaParams], Tensor], meta: MetaParams) -> MetaParams:
    """Return the gradient of a function of meta-parameters."""
    meta = attached(meta)
    grads = torch.autograd.grad(value(meta), tree.leaves(meta), **ALL)
    return tree.replace_leaves(meta, grads)


def hessian_product(
    value: Callable[[MetaParams], Tensor], meta: MetaParams, vector: MetaParams
) -> MetaParams:
    """Return a Hessian-vector product for a function of meta-parameters, by double backward."""
    meta = attached(meta)
    slopes = torch.autograd.grad(value(meta), tree.leaves(meta), create_graph=True, **ALL)
    slope = tree.dot(slopes, tree.leaves(vector))
    return tree.replace_leaves(meta, torch.autograd.grad(slope, tree.leaves(meta), **ALL))


def plain_gradient(objective: PostAdaptationObjective, meta: MetaParams, tasks: Task) -> MetaParams:
    return gradient(lambda at: plain_sum(objective, at, tasks, plain_surrogate), meta)


def double_backward(
    objective: PostAdaptationObjective, meta: MetaParams, tasks: Task, vector: MetaParams
) -> MetaParams:
    return hessian_product(lambda at: plain_sum(objective, at, tasks, plain_kl), meta, vector)


def dense_product(
    objective: PostAdaptationObjective, meta: MetaParams, tasks: Task, vector: MetaParams
) -> MetaParams:
    flat, unravel = tree.ravel(meta)
    hessian = torch.autograd.functional.hessian(
        lambda theta: plain_sum(objective, unravel(theta), tasks, plain_kl), flat
    )
    return unravel(hessian @ tree.ravel(vector)[0])
