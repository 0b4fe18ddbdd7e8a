"""Meta-training of any module on any tasks in a few lines."""

from typing import Literal

import torch
from torch import nn

from metarl.core import (
    InnerLoop,
    MetaParams,
    backprop,
    functional,
    gradient_learner,
    query_loss,
    sgd,
    torch_generator,
)
from metarl.supervised.heads import head_start, is_head
from metarl.supervised.losses import Criterion, evaluate_batch, loss_of
from metarl.supervised.model import Draw, Model, Sampler, draw_of
from metarl.util import at_least


def maml_model(
    module: nn.Module,
    criterion: Criterion,
    *,
    inner_lr: float,
    inner_steps: int = 1,
    first_order: bool = False,
    start: Literal["learned", "prototypes", "zero"] = "learned",
) -> Model:
    """Return a model that adapts all parameters of a module by gradient descent (MAML).

    Args:
        module: The network; its parameters are the initial parameters.
        criterion: Loss function ``(predictions, targets) -> (loss, metrics)``,
            such as :func:`cross_entropy` or :func:`squared_error`.
        inner_lr: Step size of the inner steps.
        inner_steps: Number of inner steps. With 0 and ``start="prototypes"``,
            the model is a prototypical network (Snell et al. 2017).
        first_order: Whether to treat inner gradients as constants in the meta-gradient.
        start: Initial head in every task: ``"learned"`` for the meta-learned
            head, ``"prototypes"`` for the class prototypes (ProtoMAML), or
            ``"zero"``. ``"prototypes"`` and ``"zero"`` require a
            :class:`~metarl.nn.Classifier` and one-hot targets.

    Raises:
        ValueError: If the module is not a :class:`~metarl.nn.Classifier`
            although `start` requires it.

    Example::

        >>> from metarl.nn import mlp
        >>> from metarl.supervised import maml_model, squared_error
        >>> model = maml_model(mlp((1, 40, 40, 1)), squared_error, inner_lr=0.01)
        >>> model.loop.num_steps
        1
    """
    apply, params = functional(module)
    loop = InnerLoop(
        loss_of(evaluate_batch(apply, criterion)),
        sgd(inner_lr),
        num_steps=inner_steps,
        first_order=first_order,
        start=head_start(start, module),
        supplied=frozenset() if start == "learned" else frozenset(filter(is_head, params)),
    )
    return Model(apply, params, loop, criterion)


def fit(
    model: Model,
    draw: Draw | Sampler,
    *,
    iterations: int,
    num_tasks: int = 16,
    outer_lr: float = 1e-3,
    seed: int = 0,
) -> MetaParams:
    """Meta-train a model with Adam, and return the meta-parameters.

    For schedules, checkpoints and metrics, write the loop with
    :func:`metarl.core.gradient_learner`.

    Args:
        model: The model, such as the result of :func:`maml_model`.
        draw: Function ``(num_tasks, generator) -> tasks``, or an object with
            a method ``sample(num_tasks, generator)``, such as
            :class:`FewShot` and :class:`FunctionTasks`.
        iterations: Number of meta-updates.
        num_tasks: Number of tasks per meta-update.
        outer_lr: Step size of Adam.
        seed: Random seed for the sampled tasks.

    Raises:
        ValueError: If `iterations` or `num_tasks` is invalid, or the outputs of
            the network do not match the targets.
        FloatingPointError: If a meta-gradient is not finite.

    Example::

        >>> from metarl.nn import mlp
        >>> from metarl.supervised import Sinusoids, fit, maml_model, squared_error
        >>> model = maml_model(mlp((1, 40, 40, 1)), squared_error, inner_lr=0.01)
        >>> params = fit(model, Sinusoids(10, 10).sample, iterations=2)
        >>> params.model["0.weight"].shape
        torch.Size([40, 1])
    """
    at_least(0).check("iterations", iterations)
    at_least(1).check("num_tasks", num_tasks)
    sample = draw_of(draw)
    batch_loss = evaluate_batch(model.apply, model.criterion)
    gradient = backprop(model.loop, query_loss(batch_loss, has_aux=True, before=False))
    learner = gradient_learner(model.loop, gradient, torch.optim.Adam, mode="traced", lr=outer_lr)
    device = next(iter(model.params.values())).device
    state = learner.init(model.params, device=device)
    for iteration in range(1, iterations + 1):
        generator = torch_generator(seed, iteration, "tasks", device=device)
        state, _ = learner.step(state, sample(num_tasks, generator))
    return state.params
