"""Meta-learners that apply a meta-gradient with an optimizer of ``torch.optim``."""

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
    """Return initial meta-parameters on `device`; random ones are sampled on the CPU."""
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
        optimizer: A class of ``torch.optim``.
        lr: Outer step size.
        factor: Function from the name of a model parameter to a factor of its step size.
        chunk_size: See :func:`~metarl.core.estimators.meta_gradient`.
        mode: See :func:`~metarl.core.estimators.meta_gradient`.
        clip: Clip every element of the mean gradient to [−clip, clip], as MAML does on
            miniImageNet.
        settings: Further arguments of the estimator, such as the weights of the multi-step loss.
        options: Further arguments of the optimizer. The step size and these arguments apply to
            every step of this learner, regardless of the learner that created the state; a schedule
            creates a new learner in every iteration.

    Raises:
        FloatingPointError: From `step`, if the meta-gradient is not finite. The parameters are then
            unchanged.
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
    """Group the meta-parameters by the factor of their step size."""
    factors = [*map(factor, meta.model), *(1.0 for _ in meta.inner)]
    groups: dict[float, list[Tensor]] = {}
    for number, leaf in zip(factors, tree.leaves(meta), strict=True):
        groups.setdefault(number, []).append(leaf)
    return [{"params": found, "factor": number} for number, found in groups.items()]
