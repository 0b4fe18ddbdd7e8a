"""Per-task meta-gradient estimators, and their mean over a meta-batch.

``vmap`` is outermost: an estimator differentiates inside one task and the tasks are batched around
it. The other order is silently wrong through fused normalization layers.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value, vmap

from metarl.core import chunks, tree
from metarl.core.adapt import InnerLoop
from metarl.core.types import LossFn, MetaParams, Metrics, Params, Task


Outer: TypeAlias = Callable[[list[Params], Task], tuple[Float[Tensor, ""], Metrics]]
"""The outer loss of one task; sees the whole path of parameters and the whole task."""

TaskGradient: TypeAlias = Callable[[MetaParams, Task], tuple[MetaParams, Metrics]]
"""A meta-learning method: the meta-gradient of one task."""


def query_loss(loss: LossFn) -> Outer:
    """Build MAML's outer loss: the loss of the adapted parameters on the query batch."""

    def outer(path: list[Params], task: Task) -> tuple[Tensor, Metrics]:
        before, after = loss(path[0], task.query), loss(path[-1], task.query)
        return after, {"query/loss_before": before, "query/loss": after}

    return outer


def backprop(loop: InnerLoop, outer: Outer) -> TaskGradient:
    """Differentiate the outer loss through the inner loop (MAML, Finn et al. 2017, alg. 1).

    With ``loop.first_order`` this is FOMAML; with an inner loop of no steps, joint training.
    """

    def task_gradient(meta: MetaParams, task: Task) -> tuple[MetaParams, Metrics]:
        def objective(meta: MetaParams) -> tuple[Tensor, Metrics]:
            return outer(loop.path(meta, task.support), task)

        gradient, (loss, metrics) = grad_and_value(objective, has_aux=True)(meta)
        return gradient, {**metrics, "outer/loss": loss}

    return task_gradient


def meta_gradient(
    task_gradient: TaskGradient, meta: MetaParams, tasks: Task, *, chunk_size: int | None = None
) -> tuple[MetaParams, Metrics]:
    """Average a per-task gradient over a meta-batch.

    Args:
        task_gradient: The estimator.
        meta: Meta-parameters.
        tasks: A meta-batch: every tensor has a leading task axis.
        chunk_size: Work on this many tasks at a time: bounds memory and, on the CPU, runs chunks
            side by side with the same bits for every number of threads. ``None``: all at once.

    Returns:
        The mean gradient, in the form of the meta-parameters, and the mean metrics.
    """

    def over_tasks(tasks: Task) -> Any:  # the types of the result, with a task axis
        return vmap(task_gradient, in_dims=(None, 0))(meta, tasks)

    if chunk_size is None:
        results = over_tasks(tasks)
    else:
        parts = chunks.split(tasks, chunk_size)
        device = tree.leaves(meta)[0].device
        results = chunks.join(chunks.parallel_map(over_tasks, parts, device=device))
    mean: tuple[MetaParams, Metrics] = tree.mean_over_tasks(results)
    return mean
