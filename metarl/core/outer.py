"""Meta-learners that apply a meta-gradient with a ``torch.optim`` optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.estimators import TaskGradient, meta_gradient
from metarl.core.speed import Mode
from metarl.core.types import MetaLearner, MetaParams, MetaState, Metrics, Params, Task


def initial_params(
    loop: InnerLoop, params: Any, generator: torch.Generator | None, device: Any
) -> MetaParams:
    """Return the initial meta-parameters of a meta-learner.

    Args:
        loop: The inner loop.
        params: A dictionary of parameters, or a function that samples this
            dictionary on the CPU with `generator`.
        generator: Random generator; only used if `params` is a function.
        device: Device to which the meta-parameters are moved.
    """
    drawn: Params = params(generator) if callable(params) else params
    meta = loop.init({name: p.detach().clone() for name, p in drawn.items()})
    return tree.map_leaves(lambda p: p.to(device), meta)


def gradient_learner(
    loop: InnerLoop,
    task_gradient: TaskGradient,
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    lr: float,
    factor: Callable[[str], float] = lambda name: 1.0,
    chunk_size: int | None = None,
    mode: Mode = "eager",
    clip: float | None = None,
    settings: Sequence[Sequence[float]] = (),
    **options: Any,
) -> MetaLearner:
    """Return a meta-learner that applies the mean meta-gradient with a ``torch.optim`` optimizer.

    Args:
        loop: The inner loop.
        task_gradient: The estimator, such as ``backprop(loop, outer)``.
        optimizer: A ``torch.optim`` class, such as ``torch.optim.Adam``.
        lr: Outer step size.
        factor: Function that maps the name of a model parameter to a factor
            for its outer step size. Defaults to 1 for all parameters.
        chunk_size: Number of tasks processed at a time; see
            :func:`~metarl.core.estimators.meta_gradient`. None processes all
            tasks at once.
        mode: Execution mode; see :func:`~metarl.core.estimators.meta_gradient`.
        clip: Clip every element of the mean gradient to [−clip, clip], as
            MAML does on miniImageNet. None disables clipping.
        settings: Values that are passed to the estimator as tensors, such as
            the weights of the multi-step loss.
        options: Additional arguments for the optimizer. `lr` and `options` apply
            to every step of this learner, even if another learner created the
            state. To schedule `lr`, create a new learner in every iteration.

    Raises:
        FloatingPointError: From `step`, if the meta-gradient is not finite.
            The parameters are then unchanged.
    """

    def init(
        params: Any, generator: torch.Generator | None = None, *, device: Any = "cpu"
    ) -> MetaState:
        meta = initial_params(loop, params, generator, device)
        groups = _groups(meta, factor)  # empty if nothing is learned
        return MetaState(meta, optimizer(groups, lr=lr, **options) if groups else None)

    def step(state: MetaState, tasks: Task | Sequence[Task]) -> tuple[MetaState, Metrics]:
        like = tree.leaves(state.params)[0]
        tensors = [torch.tensor(s, dtype=like.dtype, device=like.device) for s in settings]
        gradient, metrics = meta_gradient(
            task_gradient, state.params, tasks, *tensors, chunk_size=chunk_size, mode=mode
        )
        slopes = tree.leaves(gradient)
        metrics["gradient/outer"] = norm = get_total_norm(slopes)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the meta-gradient must be finite, got norm {norm.item():g}. Lower the inner or "
                "outer learning rate"
            )
        for parameter, slope in zip(tree.leaves(state.params), slopes, strict=True):
            parameter.grad = slope if clip is None else slope.clamp(-clip, clip)
        for group in state.optimizer.param_groups:
            group.update(options, lr=lr * group["factor"])
        state.optimizer.step()
        return state, metrics

    return MetaLearner(init, step, loop.adapt)


def _groups(meta: MetaParams, factor: Callable[[str], float]) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: one group per step-size factor."""
    factors = [*map(factor, meta.model), *(1.0 for _ in meta.inner)]
    groups: dict[float, list[Tensor]] = {}
    for number, leaf in zip(factors, tree.leaves(meta), strict=True):
        groups.setdefault(number, []).append(leaf)
    return [{"params": found, "factor": number} for number, found in groups.items()]
