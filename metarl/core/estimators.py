"""Per-task meta-gradient estimators, and their mean over a meta-batch.

``vmap`` is outermost: an estimator differentiates inside one task and the tasks are batched around
it. The other order is silently wrong through fused normalization layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, grad_and_value, vjp

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.linalg import conjugate_gradient
from metarl.core.parameters import merge, rows, split
from metarl.core.speed import Mode, chunks, processes, program
from metarl.core.types import Batch, MetaParams, Metrics, Params, Task


Outer: TypeAlias = Callable[..., tuple[Float[Tensor, ""], Metrics]]
"""The outer loss of one task, ``(path, task, *settings)``; sees all of the path and the task."""

TaskGradient: TypeAlias = Callable[..., tuple[MetaParams, Metrics]]
"""A meta-learning method, ``(meta, task, *settings)``: the meta-gradient of one task.

`settings` are tensors that change in the course of training and are the same for every task.
"""


def query_loss(
    loss: Callable[[Params, Batch], Any], *, has_aux: bool = False, before: bool = True
) -> Outer:
    """Build MAML's outer loss: the loss of the adapted parameters on the query batch.

    Its one setting, `step_weights`, adds up the losses after 1, 2, ..., K steps with these weights
    (the multi-step loss of MAML++, Antoniou et al. 2019, eq. 4); without it the last stands alone.

    Args:
        loss: The loss of one task.
        has_aux: `loss` returns ``(loss, metrics)``; the metrics are named ``query/...``.
        before: Also report the loss before adaptation, which costs a pass over the query batch.
    """

    def evaluate(params: Params, task: Task) -> tuple[Tensor, Metrics]:
        if not has_aux:
            return loss(params, task.query), {}
        value, metrics = loss(params, task.query)
        return value, {f"query/{name}": x for name, x in metrics.items()}

    def outer(
        path: list[Params], task: Task, step_weights: Float[Tensor, " steps"] | None = None
    ) -> tuple[Tensor, Metrics]:
        total, metrics = after, _ = evaluate(path[-1], task)
        if step_weights is not None:
            total = step_weights[-1] * after
            for weight, params in zip(step_weights[:-1].unbind(), path[1:-1], strict=True):
                total = total + weight * evaluate(params, task)[0]
        if before:
            metrics["query/loss_before"] = evaluate(path[0], task)[0] if len(path) > 1 else after
        return total, {**metrics, "query/loss": after}

    return outer


def backprop(loop: InnerLoop, outer: Outer) -> TaskGradient:
    """Differentiate the outer loss through the inner loop (MAML, Finn et al. 2017, alg. 1).

    With ``loop.first_order`` this is FOMAML; with an inner loop of no steps, joint training.
    """

    def task_gradient(
        meta: MetaParams, task: Task, *settings: Tensor
    ) -> tuple[MetaParams, Metrics]:
        def objective(meta: MetaParams) -> tuple[Tensor, Metrics]:
            return outer(loop.path(meta, task.support), task, *settings)

        gradient, (loss, metrics) = grad_and_value(objective, has_aux=True)(meta)
        return gradient, {**metrics, "outer/loss": loss}

    return task_gradient


def ends(loop: InnerLoop, meta: MetaParams, task: Task) -> list[Params]:
    """Return the two ends of the path, keeping nothing in between, however many steps there are."""
    start, _ = loop.start(meta.model, task.support)
    return [rows(start, loop.per_step, 0), loop.adapt(meta, task.support)]


def reptile(loop: InnerLoop, outer: Outer) -> TaskGradient:
    """Take θ − φ for the gradient, with φ the adapted parameters (Nichol et al. 2018, alg. 1).

    With an outer step size ε of plain gradient descent this is θ ← θ + ε(φ − θ). `outer` is only
    measured.

    Raises:
        ValueError: When called, if the inner optimizer learns constants, which θ − φ cannot reach.
    """

    def task_gradient(meta: MetaParams, task: Task) -> tuple[MetaParams, Metrics]:
        if meta.inner:
            raise ValueError("reptile has no gradient for learned inner rates; use sgd or adam")
        path = ends(loop, meta, task)
        loss, metrics = outer(path, task)
        adapts = {n for n in path[-1] if loop.adapts(n)}  # a leaf of one row per step does not
        moved = {n: p - path[-1][n] if n in adapts else 0 * p for n, p in meta.model.items()}
        return MetaParams(moved, {}), {**metrics, "outer/loss": loss}

    return task_gradient


def meta_gradient(
    task_gradient: TaskGradient,
    meta: MetaParams,
    tasks: Task | Sequence[Task],
    *settings: Tensor,
    chunk_size: int | None = None,
    mode: Mode = "eager",
) -> tuple[MetaParams, Metrics]:
    """Average a per-task gradient over a meta-batch.

    Args:
        task_gradient: The estimator.
        meta: Meta-parameters.
        tasks: A meta-batch: every tensor has a leading task axis. Tasks of unequal sizes come as a
            list of such meta-batches, each of tasks of one size.
        settings: What the estimator takes beside.
        chunk_size: Work on this many tasks at a time: bounds memory and, on the CPU, runs chunks
            side by side with the same bits for every number of threads. ``None``: all at once.
        mode: ``traced`` lists the operators of the estimator once for each shape of chunk, and
            ``compiled`` fuses them: seconds, and minutes, that pay in long runs of one shape.

    Returns:
        The mean gradient, in the form of the meta-parameters, and the mean metrics; over the tasks
        of all processes, where several share a meta-batch.
    """
    parts = chunks.split(tasks, chunk_size) if isinstance(tasks, Task) else list(tasks)
    count = processes.count(sum(len(tree.leaves(part)[0]) for part in parts))
    share = share_of_mean(task_gradient, count, mode)
    if len(parts) == 1 and chunk_size is None:  # operators may use all threads
        return processes.total([share(meta, parts[0], *settings)])
    found = chunks.parallel_map(
        lambda part: share(meta, part, *settings), parts, device=tree.leaves(meta)[0].device
    )
    return processes.total(found)


@lru_cache(maxsize=8)  # compiling takes minutes: once for each estimator
def share_of_mean(task_gradient: TaskGradient, count: int, mode: Mode = "eager") -> TaskGradient:
    """Turn a gradient of one task into what a chunk of tasks adds to the mean over `count`.

    Args:
        task_gradient: The estimator.
        count: Tasks of the whole meta-batch.
        mode: See :func:`meta_gradient`.
    """

    def share(meta: MetaParams, tasks: Task, *settings: Tensor) -> tuple[MetaParams, Metrics]:
        results: tuple[MetaParams, Metrics] = chunks.over_tasks(
            lambda task: task_gradient(meta, task, *settings), tasks
        )
        return tree.map_leaves(lambda x: x.sum(0) / count, results)

    return program(share, mode)


def implicit(
    loop: InnerLoop, outer: Outer, *, cg_steps: int = 5, damping: float = 0.0
) -> TaskGradient:
    """Differentiate where the inner loop ends, not how it got there (Rajeswaran et al. 2019).

    The adapted φ is taken for the minimum of L(φ) + (λ/2)‖φ − θ‖², with λ = ``loop.proximal``.
    There ∇L(φ) + λ(φ − θ) = 0, so dφ/dθ = (I + ∇²L(φ)/λ)⁻¹ (lemma 1), and conjugate gradient
    applies it to the outer gradient with products of the Hessian. Memory does not grow with the
    number of inner steps. Parameters that do not adapt receive their gradient through the same
    condition.

    Args:
        loop: An inner loop with a proximal term.
        outer: The outer loss; only its dependence on the adapted parameters is differentiated.
        cg_steps: Conjugate-gradient steps, one Hessian product each.
        damping: Added to the identity: the authors' code solves (1 + damping) x + Hx/λ = g.

    Raises:
        ValueError: If the loop has no proximal term. When called, if the inner optimizer learns
            constants, on which the minimum does not depend.
    """
    if loop.proximal <= 0:
        raise ValueError(f"implicit needs a loop with proximal > 0, got {loop.proximal}")
    loop = replace(loop, first_order=False)  # its Hessian is differentiated, and not its path

    def task_gradient(meta: MetaParams, task: Task) -> tuple[MetaParams, Metrics]:
        if meta.inner:
            raise ValueError("implicit has no gradient for learned inner rates; use sgd or adam")
        path = ends(loop, meta, task)
        if path[-1].keys() != meta.model.keys():
            raise ValueError("implicit requires a start that supplies no parameters")
        pulled, (loss, metrics) = grad_and_value(
            lambda adapted: outer([path[0], adapted], task), has_aux=True
        )(path[-1])
        solution, residual = _solve(loop, path[-1], task, pulled, cg_steps, 1 + damping)
        slow = _slow_gradient(loop, meta.model, path[-1], task, pulled, solution)
        gradient = slow | solution
        metrics |= {"outer/loss": loss, "implicit/cg_residual": tree.norm(residual)}
        return MetaParams({name: gradient[name] for name in meta.model}, {}), metrics

    return task_gradient


def _solve(
    loop: InnerLoop, adapted: Params, task: Task, pulled: Params, steps: int, identity: float
) -> tuple[Params, Params]:
    """Solve (identity · I + ∇²L/λ) x = g over the parameters that adapt."""
    fast, _ = split(adapted, loop.adapts)
    # One graph for all products; the Hessian is symmetric, so its transpose will do.
    hessian = vjp(lambda fast: loop.gradient(merge(adapted, fast), task.support[-1]), fast)[1]

    def product(x: Params) -> Params:
        return tree.add(tree.scale(x, identity), hessian(x)[0], scale=1 / loop.proximal)

    target = {name: pulled[name] for name in fast}
    solution, residual = conjugate_gradient(product, target, steps=steps)
    # Where the loss is so concave that not even the first step was possible: FOMAML's gradient.
    solved = tree.dot(solution, solution) > 0
    return tree.map_leaves(lambda x, g: torch.where(solved, x, g), solution, target), residual


def _slow_gradient(
    loop: InnerLoop, model: Params, adapted: Params, task: Task, pulled: Params, solution: Params
) -> Params:
    """Return the gradient of what does not adapt: direct, and through where the minimum lies."""
    _, slow = split(model, loop.adapts)
    if not slow:
        return {}
    steps = len(task.support) if loop.num_steps is None else loop.num_steps

    def reaches(slow: Params) -> Float[Tensor, ""]:
        last = rows(slow, loop.per_step, steps - 1)
        direct = tree.dot({name: pulled[name] for name in last}, last)
        grads = loop.gradient(merge(adapted, last), task.support[-1])
        return direct - tree.dot(grads, solution) / loop.proximal

    return cast(Params, grad(reaches)(slow))
