"""A natural-gradient step of meta-parameters inside a trust region (Schulman et al. 2015)."""

from typing import Any

import torch
from torch import Tensor

from metarl.core import chunks, tree
from metarl.core.linalg import conjugate_gradient
from metarl.core.types import MetaParams, Metrics, Task
from metarl.rl.episodes import zero_padding
from metarl.rl.objective import AdaptedPolicy


@chunks.one_thread_per_operator()
def trust_region_step(
    objective: AdaptedPolicy,
    meta: MetaParams,
    tasks: Task,
    *,
    max_kl: float = 0.01,
    cg_steps: int = 10,
    cg_damping: float = 1e-5,
    backtracks: int = 15,
    backtrack_ratio: float = 0.8,
    chunk_size: int | None = None,
) -> tuple[MetaParams, Metrics]:
    """Minimize the surrogate within mean KL(old ‖ new) ≤ `max_kl` on post-adaptation states.

    The step is sqrt(2 δ / sᵀHs) · s with s ≈ (H + damping)⁻¹ g by conjugate gradient and H the
    exact Fisher JᵀFJ; then the first of up to `backtracks` shortened steps is taken that lowers
    the surrogate and keeps the KL. Learned inner rates are meta-parameters like any other.

    Args:
        objective: The post-adaptation objective.
        meta: Meta-parameters at which `tasks` were collected.
        tasks: The meta-batch.
        max_kl: δ, the radius of the trust region.
        cg_steps: Conjugate-gradient iterations, one Fisher product each.
        cg_damping: Added to the Fisher's diagonal while solving.
        backtracks: Points of the line search.
        backtrack_ratio: How much shorter each is than the one before.
        chunk_size: Tasks worked on at a time; by default as many as fit the cache.

    Returns:
        The new meta-parameters (the old ones if no point was accepted), and metrics.

    Raises:
        FloatingPointError: If the surrogate or its gradient is not finite.
    """
    tasks = Task(tuple(zero_padding(b) for b in tasks.support), zero_padding(tasks.query))
    query = tasks.query
    num_tasks, device = query.mask.shape[0], query.mask.device
    size = chunk_size or chunks.cache_sized(query.mask[0].numel(), device)
    parts = chunks.split(tasks, size)

    def mean(function: Any, items: list[Any]) -> Any:
        results = chunks.parallel_map(function, items, device=device)
        return tree.scale(tree.total(results), 1 / num_tasks)

    at_old = chunks.parallel_map(lambda part: objective.linearize(meta, part), parts, device=device)
    before = torch.stack([c.surrogate for c in at_old]).sum() / num_tasks
    gradient = tree.scale(tree.total([c.gradient for c in at_old]), 1 / num_tasks)
    _check_finite(before, gradient)

    def damped_fisher(vector: MetaParams) -> MetaParams:
        product: MetaParams = mean(lambda c: c.fisher(vector), at_old)
        return tree.add(product, vector, scale=cg_damping)

    solution, residual = conjugate_gradient(damped_fisher, gradient, steps=cg_steps)
    image = tree.add(tree.add(gradient, residual, scale=-1.0), solution, scale=-cg_damping)
    curvature = tree.dot(solution, image).clamp(min=torch.finfo(before.dtype).tiny)
    step = tree.scale(solution, -torch.sqrt(2 * max_kl / curvature))
    del at_old  # and with it every retained graph, before the line search

    def evaluate(candidate: MetaParams) -> tuple[Tensor, Tensor]:
        def chunk_sum(part: Task) -> Any:
            values = chunks.over_tasks(lambda task: objective(candidate, task), part)
            return tree.map_leaves(torch.sum, values)

        with torch.no_grad():
            loss, kl = mean(chunk_sum, parts)
        return loss, kl

    metrics = {"gradient/outer": tree.norm(gradient), "trpo/surrogate": before}
    fraction = 1.0
    for _ in range(backtracks):
        candidate = tree.add(meta, step, scale=fraction)
        after, kl = evaluate(candidate)
        if after < before and kl <= max_kl:
            accepted = {"improvement": before - after, "kl": kl, "step_fraction": fraction}
            return candidate, metrics | _scalars(accepted, like=before)
        fraction *= backtrack_ratio
    refused = {"improvement": 0.0, "kl": 0.0, "step_fraction": 0.0}
    return meta, metrics | _scalars(refused, like=before)


def _scalars(values: dict[str, Any], *, like: Tensor) -> Metrics:
    return {f"trpo/{name}": like.new_tensor(float(value)) for name, value in values.items()}


def _check_finite(loss: Tensor, gradient: MetaParams) -> None:
    if not (torch.isfinite(loss) and torch.isfinite(tree.norm(gradient))):
        raise FloatingPointError(
            f"the surrogate loss is {loss.item():g} and its gradient has norm "
            f"{tree.norm(gradient).item():g}: lower --inner-lr or --max-kl"
        )
