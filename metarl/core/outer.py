"""Outer optimizers: ``torch.optim`` as init and step. Here alone parameters change in place."""

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
    """Draw meta-parameters on the CPU and move them to `device` (see ``MetaLearner.init``)."""
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
    """Build a meta-learner that descends the mean task gradient with a ``torch.optim`` optimizer.

    Args:
        loop: The inner loop, for `init` and `adapt`.
        task_gradient: The estimator, such as ``backprop(loop, outer)``.
        optimizer: A class of ``torch.optim``.
        lr: The outer step size.
        factor: Of a parameter of the model, by name: what its step size is multiplied by.
        chunk_size: See :func:`~metarl.core.estimators.meta_gradient`.
        mode: See :func:`~metarl.core.estimators.meta_gradient`.
        clip: Cut every number of the mean gradient to [−clip, clip], as MAML does on miniImageNet.
        settings: What the estimator takes beside, such as the weights of a multi-step loss.
        options: Other arguments of the optimizer. Like the step size they hold for every step made
            with this learner, also from a state of another: a schedule is a new learner per
            iteration.

    Raises:
        FloatingPointError: From `step`, before anything is changed, if the gradient is not finite.
    """

    def init(
        params: Any, generator: torch.Generator | None = None, *, device: Any = "cpu"
    ) -> MetaState:
        meta = initial_params(loop, params, generator, device)
        return MetaState(meta, optimizer(_groups(meta, factor), lr=lr, **options))

    def step(state: MetaState, tasks: Task | Sequence[Task]) -> tuple[MetaState, Metrics]:
        like = tree.leaves(state.params)[0]
        tensors = [torch.tensor(s, dtype=like.dtype, device=like.device) for s in settings]
        gradient, metrics = meta_gradient(
            task_gradient, state.params, tasks, *tensors, chunk_size=chunk_size, mode=mode
        )
        slopes = tree.leaves(gradient)
        metrics["gradient/outer"] = norm = get_total_norm(slopes)
        if not torch.isfinite(norm):
            raise FloatingPointError("the meta-gradient is not finite; lower a learning rate")
        for parameter, slope in zip(tree.leaves(state.params), slopes, strict=True):
            parameter.grad = slope if clip is None else slope.clamp(-clip, clip)
        for group in state.optimizer.param_groups:
            group.update(options, lr=lr * group["factor"])
        state.optimizer.step()
        return state, metrics

    return MetaLearner(init, step, loop.adapt)


def _groups(meta: MetaParams, factor: Callable[[str], float]) -> list[dict[str, Any]]:
    """Sort meta-parameters by what their step size is multiplied by."""
    factors = [*map(factor, meta.model), *(1.0 for _ in meta.inner)]
    groups: dict[float, list[Tensor]] = {}
    for number, leaf in zip(factors, tree.leaves(meta), strict=True):
        groups.setdefault(number, []).append(leaf)
    return [{"params": found, "factor": number} for number, found in groups.items()]
