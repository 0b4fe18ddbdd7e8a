"""Meta-gradient estimators for a single task, and their mean over a meta-batch.

An estimator differentiates the loss of a single task, and ``vmap`` is applied to the estimator. The
reverse order, differentiating a function that contains ``vmap``, silently gives wrong second
derivatives for fused normalization layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, grad_and_value, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.linalg import conjugate_gradient
from metarl.core.parameters import merge, rows, split
from metarl.core.speed import Mode, chunks, processes, program
from metarl.core.types import Batch, MetaParams, Metrics, Params, Task


Outer: TypeAlias = Callable[..., tuple[Float[Tensor, ""], Metrics]]
"""Outer loss of one task: ``(path, task, *settings) -> (loss, metrics)``.

`path` is a list with the parameters before adaptation and after each inner step.
:data:`TaskGradient` describes `settings`.
"""

TaskGradient: TypeAlias = Callable[..., tuple[MetaParams, Metrics]]
"""Meta-gradient of one task: ``(meta, task, *settings) -> (gradient, metrics)``.

`settings` are tensors that change during training and are shared by all tasks, such as the weights
of a multi-step loss.
"""


def query_loss(
    loss: Callable[[Params, Batch], Any], *, has_aux: bool = False, before: bool = True
) -> Outer:
    """Return MAML's outer loss: the loss of the adapted parameters on the query batch.

    The outer loss accepts one optional setting, `step_weights`: a vector with one weight for the
    loss after each inner step, as in the multi-step loss of MAML++ (Antoniou et al. 2019, eq. 4).
    Without `step_weights`, only the loss after the last step is used. In both cases, the loss after
    the last step is reported as ``query/loss``.

    Args:
        loss: Loss of one task, ``(params, batch) -> scalar``.
        has_aux: Whether `loss` returns ``(loss, metrics)``. The metrics after the last step are
            reported as ``query/NAME``.
        before: Whether to report the loss before adaptation as ``query/loss_before``, at the cost
            of an additional forward pass.
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
    """Return the MAML estimator, which differentiates the outer loss through the inner loop.

    The estimator implements algorithm 1 of Finn et al. 2017. With ``loop.first_order``, the method
    is FOMAML; with zero inner steps, it is joint training.

    Args:
        loop: The inner loop.
        outer: The outer loss, such as :func:`query_loss`.

    Returns:
        A :data:`TaskGradient` for :func:`gradient_learner` or
        :func:`meta_gradient`. The estimator returns the metric ``outer/loss`` and
        all metrics of `outer`, such as ``query/loss`` for :func:`query_loss`.

    Example::

        # loss, loop, params and tasks as in the docstring of metarl.core
        task_gradient = backprop(loop, query_loss(loss))
        meta = loop.init(params)
        gradient, metrics = meta_gradient(task_gradient, meta, tasks)
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
    """Return ``[before, after]``: one task's parameters before and after all inner steps."""
    start, _ = loop.start(meta.model, task.support)
    return [rows(start, loop.per_step, 0), loop.adapt(meta, task.support)]


def reptile(loop: InnerLoop, outer: Outer) -> TaskGradient:
    """Return the Reptile estimator θ − φ (Nichol et al. 2018, alg. 1).

    θ is the initialization, and φ are the adapted parameters. If the outer optimizer is gradient
    descent with step size ε, the update is θ ← θ + ε(φ − θ). The outer loss is reported as a metric
    and does not affect the gradient.

    Args:
        loop: The inner loop.
        outer: The outer loss to report, such as :func:`query_loss`.

    Raises:
        ValueError: From the returned estimator, if the inner optimizer has learned hyperparameters.
    """

    def task_gradient(meta: MetaParams, task: Task) -> tuple[MetaParams, Metrics]:
        if meta.inner:
            raise ValueError(
                "the inner optimizer has learned hyperparameters, which reptile does not support. "
                "Use an inner optimizer without learned hyperparameters, such as sgd or adam"
            )
        path = ends(loop, meta, task)
        loss, metrics = outer(path, task)
        adapts = {n for n in path[-1] if loop.adapts(n)}  # per-step parameters do not adapt
        moved = {n: p - path[-1][n] if n in adapts else 0 * p for n, p in meta.model.items()}
        return MetaParams(moved, {}), {**metrics, "outer/loss": loss}

    return task_gradient


@sdpa_kernel(SDPBackend.MATH)  # outside of the threads of the chunks, which it applies to
def meta_gradient(
    task_gradient: TaskGradient,
    meta: MetaParams,
    tasks: Task | Sequence[Task],
    *settings: Tensor,
    chunk_size: int | None = None,
    mode: Mode = "eager",
) -> tuple[MetaParams, Metrics]:
    """Return the mean of a meta-gradient estimator over a meta-batch.

    Attention is computed by PyTorch's plain kernel; fused kernels have no second derivative.

    Args:
        task_gradient: The estimator, such as ``backprop(loop, outer)``.
        meta: The meta-parameters.
        tasks: The meta-batch; every tensor has a leading task axis. For tasks of different sizes,
            pass a list of meta-batches, each with tasks of equal size.
        settings: Tensors that are passed to the estimator as additional arguments.
        chunk_size: Number of tasks processed at a time; lower values use less memory. On the CPU,
            chunks run in parallel, and the results do not depend on the number of threads. None
            processes all tasks at once. Meta-batches in a list are not split further.
        mode: ``eager``, ``traced`` or ``compiled``. ``traced`` traces the estimator once per chunk
            shape, which takes seconds, and then runs without the overhead of ``vmap`` and autograd.
            ``compiled`` also fuses operators with ``torch.compile``, which takes minutes.

    Returns:
        ``(gradient, metrics)``: the mean gradient, with the structure of `meta`, and the mean
            metrics. Both are averaged over the tasks of all processes.
    """
    parts = chunks.split(tasks, chunk_size) if isinstance(tasks, Task) else list(tasks)
    count = processes.count(sum(len(tree.leaves(part)[0]) for part in parts))
    share = share_of_mean(task_gradient, count, mode)
    if len(parts) == 1 and chunk_size is None:  # operators can use all threads
        return processes.total([share(meta, parts[0], *settings)])
    found = chunks.parallel_map(
        lambda part: share(meta, part, *settings), parts, device=tree.leaves(meta)[0].device
    )
    return processes.total(found)


@lru_cache(maxsize=8)  # compilation takes minutes
def share_of_mean(task_gradient: TaskGradient, count: int, mode: Mode = "eager") -> TaskGradient:
    """Return a function that computes the contribution of a chunk of tasks to a mean.

    Args:
        task_gradient: The estimator.
        count: Number of tasks in the whole meta-batch, over which the mean is taken.
        mode: Execution mode; see :func:`meta_gradient`.

    Returns:
        A function ``(meta, tasks, *settings) -> (gradient, metrics)``. The sum of the results over
            all chunks is the mean over the meta-batch.
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
    """Return the implicit estimator of iMAML (Rajeswaran et al. 2019).

    The estimator assumes that the adapted parameters φ minimize L(φ) + (λ/2)‖φ − θ‖² with λ =
    ``loop.proximal``. Then ∇L(φ) + λ(φ − θ) = 0, and dφ/dθ = (I + ∇²L(φ)/λ)⁻¹ (lemma 1). Conjugate
    gradients apply this inverse to the outer gradient with Hessian-vector products, so that memory
    does not grow with the number of inner steps. The gradient for parameters that do not adapt
    follows from the same optimality condition.

    Args:
        loop: An inner loop with a proximal term.
        outer: The outer loss. Only the derivative with respect to the adapted parameters is used.
        cg_steps: Number of conjugate-gradient steps, with one Hessian-vector product each.
        damping: Damping of the linear system (1 + damping) x + Hx/λ = g with the Hessian H and the
            outer gradient g, as in the authors' code.

    Raises:
        ValueError: If ``loop.proximal`` is not greater than 0. The returned estimator raises a
            ValueError if the inner optimizer has learned hyperparameters or ``loop.start`` adds
            parameters.
    """
    if loop.proximal <= 0:
        raise ValueError(f"`implicit` requires an InnerLoop with proximal > 0, got {loop.proximal}")
    loop = replace(loop, first_order=False)  # the Hessian is exact in any case

    def task_gradient(meta: MetaParams, task: Task) -> tuple[MetaParams, Metrics]:
        if meta.inner:
            raise ValueError(
                "the inner optimizer has learned hyperparameters, which implicit does not support. "
                "Use an inner optimizer without learned hyperparameters, such as sgd or adam"
            )
        path = ends(loop, meta, task)
        if path[-1].keys() != meta.model.keys():
            raise ValueError("`implicit` supports no `start` that adds parameters; use `backprop`")
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
    """Solve (identity · I + ∇²L/λ) x = g, and return the solution x and the residual.

    L is the loss on the last support batch; g is the part of `pulled` for parameters that adapt.
    """
    fast, _ = split(adapted, loop.adapts)
    # All products share one graph; the Hessian is symmetric and equals its transpose.
    hessian = vjp(lambda fast: loop.gradient(merge(adapted, fast), task.support[-1]), fast)[1]

    def product(x: Params) -> Params:
        return tree.add(tree.scale(x, identity), hessian(x)[0], scale=1 / loop.proximal)

    target = {name: pulled[name] for name in fast}
    solution, residual = conjugate_gradient(product, target, steps=steps)
    # FOMAML's gradient, if the loss is so concave that CG could not take its first step.
    solved = tree.dot(solution, solution) > 0
    return tree.map_leaves(lambda x, g: torch.where(solved, x, g), solution, target), residual


def _slow_gradient(
    loop: InnerLoop, model: Params, adapted: Params, task: Task, pulled: Params, solution: Params
) -> Params:
    """Return the outer gradient for the parameters that do not adapt, direct and through φ."""
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
