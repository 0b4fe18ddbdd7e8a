"""A natural-gradient step of meta-parameters inside a trust region (Schulman et al. 2015)."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor

from metarl.core import tree
from metarl.core.linalg import conjugate_gradient
from metarl.core.speed import chunks, processes
from metarl.core.types import MetaParams, Metrics, Task
from metarl.rl.episodes import chunk_of, zero_task_padding
from metarl.rl.objective import Linearization, PostAdaptationObjective
from metarl.util.ranges import above, at_least, greater_than, inside


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
        fisher_fraction: Part of each task's episodes that the Fisher is computed on. Below 1 the
            products are that much cheaper and the direction is noisier; surrogate, gradient and
            line search always see every episode. Episodes are drawn alike, so the first ones are
            as good a sample as any, and the same seed gives the same ones.
        chunk_size: Tasks worked on at a time; by default as many as fit the cache.

    Returns:
        The new meta-parameters (the old ones if no point was accepted), and metrics.

    Raises:
        FloatingPointError: If the surrogate or its gradient is not finite.
        ValueError: If `fisher_fraction` is outside (0, 1].
    """
    above(0, 1).check("fisher_fraction", fisher_fraction)
    tasks = zero_task_padding(tasks)
    num_tasks, device = processes.count(tasks.query.mask.shape[0]), tasks.query.mask.device

    def chunked(tasks: Task) -> list[Task]:
        return chunks.split(tasks, chunk_size or chunk_of(tasks.query))

    def mean(function: Any, items: list[Any]) -> Any:
        results = chunks.parallel_map(function, items, device=device)
        return tree.scale(processes.total(results), 1 / num_tasks)

    def linearize(parts: list[Task]) -> list[Linearization]:
        return chunks.parallel_map(lambda p: objective.linearize(meta, p), parts, device=device)

    parts = chunked(tasks)
    at_old = linearize(parts)
    before, gradient = mean(lambda c: (c.surrogate, c.gradient), at_old)
    _check_finite(before, gradient)
    if fisher_fraction < 1:
        del at_old  # its residuals are as large as all the episodes
        at_old = linearize(chunked(_fewer_episodes(tasks, fisher_fraction)))

    step, residual = _longest_step(
        lambda vector: mean(lambda c: c.fisher(vector), at_old),
        gradient, max_kl, cg_steps, cg_damping,
    )  # fmt: skip
    del at_old  # and with it every residual, before the line search

    def evaluate(candidate: MetaParams) -> Any:
        def chunk_sum(part: Task) -> Any:
            values = chunks.over_tasks(lambda task: objective(candidate, task), part)
            return tree.map_leaves(torch.sum, values)

        with torch.no_grad():
            return mean(chunk_sum, parts)

    accepted: dict[str, Any] = {"improvement": 0.0, "kl": 0.0, "step_fraction": 0.0}
    fraction = 1.0
    for _ in range(backtracks):
        candidate = tree.add(meta, step, scale=fraction)
        after, kl = evaluate(candidate)
        if after < before and kl <= max_kl:
            meta = candidate
            accepted = {"improvement": before - after, "kl": kl, "step_fraction": fraction}
            break
        fraction *= backtrack_ratio
    return meta, {
        "gradient/outer": tree.norm(gradient),
        "trpo/surrogate": before,
        "trpo/cg_residual": tree.norm(residual) / tree.norm(gradient),
        **{f"trpo/{name}": before.new_tensor(float(value)) for name, value in accepted.items()},
    }


def _longest_step(
    fisher: Callable[[MetaParams], MetaParams],
    gradient: MetaParams,
    max_kl: float,
    cg_steps: int,
    cg_damping: float,
) -> tuple[MetaParams, MetaParams]:
    """Return −sqrt(2 δ / sᵀHs) · s with s ≈ (H + damping)⁻¹ g, and the residual of s.

    sᵀHs is without the damping, and costs no product: H s = g − residual − damping · s.
    """

    def damped(vector: MetaParams) -> MetaParams:
        return tree.add(fisher(vector), vector, scale=cg_damping)

    solution, residual = conjugate_gradient(damped, gradient, steps=cg_steps)
    image = tree.add(tree.add(gradient, residual, scale=-1.0), solution, scale=-cg_damping)
    curvature = tree.dot(solution, image)
    curvature = curvature.clamp(min=torch.finfo(curvature.dtype).tiny)
    return tree.scale(solution, -torch.sqrt(2 * max_kl / curvature)), residual


def _fewer_episodes(tasks: Task, fraction: float) -> Task:
    """Keep the first episodes of every task."""
    kept = math.ceil(fraction * tasks.query.mask.shape[2])
    return tree.map_leaves(lambda x: x[:, :, :kept].contiguous(), tasks)


def _check_finite(loss: Tensor, gradient: MetaParams) -> None:
    if not (torch.isfinite(loss) and torch.isfinite(tree.norm(gradient))):
        raise FloatingPointError(
            f"the surrogate loss is {loss.item():g} and its gradient has norm "
            f"{tree.norm(gradient).item():g}: lower inner_lr or max_kl"
        )
