"""Construction of models, inner loops and meta-learners for the supervised experiments."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from metarl.core import (
    Batch,
    InnerLoop,
    MetaLearner,
    Params,
    Task,
    TaskGradient,
    backprop,
    functional,
    gradient_learner,
    implicit,
    inner_optimizer,
    query_loss,
    reptile,
)
from metarl.core.parameters import rows
from metarl.experiments.supervised_settings import SupervisedConfig, require_compatible
from metarl.supervised import (
    SCHEDULES,
    Criterion,
    Draw,
    Model,
    StartFn,
    body_of,
    evaluate_batch,
    head_start,
    is_head,
    loss_of,
    multi_step_weights,
    norms_of,
)
from metarl.supervised.model import Tasks
from metarl.text import TextClassifier, generated_start, layer_of, with_lower_layers


OUTER: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),  # 3 times as fast for small networks
    "sgd": torch.optim.SGD,
}


class Parts(NamedTuple):
    """The model, the meta-learner and the task samplers of a configuration.

    Attributes:
        model: The network with the inner loop used in training.
        learner: Function that returns the meta-learner of an iteration,
            counted from 1. Schedules make the meta-learner depend on the
            iteration.
        test_loop: Inner loop used in validation and test.
        draw: Sampler of training tasks.
        evaluated: Samplers of evaluation tasks by split: ``train``,
            ``validation`` and, except for text, ``test``.
        chunk_size: Number of tasks that an evaluation processes together; None for all tasks.
        train_chunk: Number of tasks that training processes together; None for all tasks.
    """

    model: Model
    learner: Callable[[int], MetaLearner]
    test_loop: InnerLoop
    draw: Draw
    evaluated: Mapping[str, Draw]
    chunk_size: int | None = None
    train_chunk: int | None = None


def make_model(config: SupervisedConfig, module: nn.Module, criterion: Criterion) -> Model:
    """Build the model of a complete configuration: a network with an inner loop.

    Args:
        config: A complete configuration, see :meth:`SupervisedConfig.complete`.
        module: The network. Parameters of the head have names that start with ``head.``.
        criterion: Function ``(predictions, targets) -> (loss, metrics)``.

    Raises:
        ValueError: If the method does not support the network.
    """
    apply, params = functional(module)
    fast = _fast(config, module)
    start = _start(config.start, module, detach=config.first_order)
    per_step = norms_of(module) if config.per_step_norm else frozenset()
    steps = config.inner_steps or 0
    params = {n: p.expand(max(1, steps), *p.shape).clone() if n in per_step else p
              for n, p in params.items()}  # fmt: skip
    loop = InnerLoop(
        loss_of(evaluate_batch(apply, criterion)),
        inner_optimizer(
            config.inner or "sgd",
            config.inner_lr or 0.0,
            steps,
            clip=config.inner_clip,
            **({"group": layer_of} if isinstance(module, TextClassifier) else {}),
        ),
        fast=fast,
        per_step=per_step,
        first_order=config.first_order,
        num_steps=steps,
        proximal=config.proximal or 0.0,
        start=start,
        supplied=frozenset(filter(is_head, params)) if config.start != "learned" else frozenset(),
    )
    return Model(apply, params, loop, criterion)


def make_learner(
    config: SupervisedConfig,
    model: Model,
    *,
    chunk_size: int | None = None,
    factor: Callable[[str], float] = lambda name: 1.0,
) -> Callable[[int], MetaLearner]:
    """Return a function that maps an iteration, 1 to ``config.iterations``, to a meta-learner.

    Args:
        config: A complete configuration.
        model: The model from :func:`make_model`.
        chunk_size: Number of tasks to process together, unless the
            configuration contains a value. Default: all tasks.
        factor: Function ``(parameter name) -> factor``. The factor multiplies
            the outer step size of the parameter.

    Raises:
        ValueError: If settings conflict.
    """
    require_compatible(config)

    @cache  # one traced program per value of first_order
    def task_gradient(first_order: bool) -> TaskGradient:
        loop = replace(model.loop, first_order=first_order)
        outer = query_loss(evaluate_batch(model.apply, model.criterion), has_aux=True, before=False)
        if config.estimator == "implicit":
            return implicit(loop, outer, cg_steps=config.cg_steps, damping=config.cg_damping)
        return (reptile if config.estimator == "reptile" else backprop)(loop, outer)

    def learner(iteration: int) -> MetaLearner:
        progress = (iteration - 1) / max(1, config.iterations)
        first_order = config.first_order or progress < (config.first_order_until or 0.0)
        rate = SCHEDULES[config.outer_schedule or "constant"]
        until = config.multi_step_until or 0.0
        weights = multi_step_weights(config.inner_steps or 0, progress / until if until else 1.0)
        return gradient_learner(
            model.loop,
            task_gradient(first_order),
            OUTER[config.outer or "adam"],
            chunk_size=config.chunk_size or chunk_size,
            mode=config.mode or "traced",
            clip=config.clip,
            settings=() if weights is None else (weights,),
            factor=factor,
            lr=rate(config.outer_lr or 0.0, config.outer_lr_end, progress),
        )

    return learner


def outer_factor(config: Any, encoder: str, name: str) -> float:
    """Return the factor that multiplies the outer step size of a parameter.

    Args:
        config: A complete configuration with the setting `encoder_lr`.
        encoder: Start of the names of the parameters in the encoder.
        name: Name of the parameter.
    """
    own = config.encoder_lr if name.startswith(encoder) else None
    return own / config.outer_lr if own is not None and config.outer_lr else 1.0


def make_test_loop(
    config: SupervisedConfig, model: Model, *, start: str | None = None
) -> InnerLoop:
    """Return the inner loop for validation and test.

    Args:
        config: A complete configuration.
        model: The model from :func:`make_model`.
        start: Initial head, ``"prototypes"`` or ``"zero"``, that replaces a
            learned head. Default: the initial head used in training.
    """
    loop = replace(model.loop, num_steps=config.test_steps)
    return started(loop, start, model) if start and config.start == "learned" else loop


def mapped(source: Callable[[], Draw], function: Callable[[Task, torch.Generator], Task]) -> Draw:
    """Return a sampler that applies a function to all tasks from an original sampler.

    Args:
        source: Function that creates the original sampler; called on first use.
        function: ``(task, generator) -> task``, applied once to a meta-batch,
            or to each item if the original sampler returns a list of tasks.
    """
    made = cache(source)

    def sample(num_tasks: int, generator: torch.Generator) -> Tasks:
        tasks = made()(num_tasks, generator)
        if isinstance(tasks, Task):
            return function(tasks, generator)
        return [function(task, generator) for task in tasks]

    return sample


def started(loop: InnerLoop, start: str, model: Model) -> InnerLoop:
    """Return a copy of an inner loop with a different initial head.

    Args:
        loop: The inner loop.
        start: Initial head: ``"prototypes"`` or ``"zero"``.
        model: The model that contains the network.
    """
    made = _start(start, model.apply.module, detach=loop.first_order)

    def initial(params: Params, batches: tuple[Batch, ...]) -> tuple[Params, tuple[Batch, ...]]:
        own, left = made(rows(params, loop.per_step, 0), batches)
        return {**own, **{name: params[name] for name in loop.per_step}}, left

    return replace(loop, start=initial)


def _fast(config: SupervisedConfig, module: nn.Module) -> Callable[[str], bool]:
    if config.adapts in ("head", "body"):
        body_of(module)  # raises an error for a module without a body
    norms = norms_of(module)
    never: frozenset[str] = getattr(module, "meta_only", frozenset())
    adapts: dict[str | None, Callable[[str], bool]] = {
        "head": is_head,
        "body": lambda name: not is_head(name),
        "all-but-norm": lambda name: name not in norms,
    }
    chosen: Callable[[str], bool] = adapts.get(config.adapts, lambda name: True)
    return lambda name: name not in never and chosen(name)


def _start(name: str | None, module: nn.Module, *, detach: bool) -> StartFn:
    if name != "generated":
        start = head_start(name or "learned", module)
    elif isinstance(module, TextClassifier):
        start = generated_start(module)
    else:
        raise ValueError(
            "start=generated (method=leopard) is only supported by `metarl train text`; choose a "
            "different `start` and method"
        )
    return (
        with_lower_layers(start, module, detach=detach)
        if isinstance(module, TextClassifier)
        else start
    )
