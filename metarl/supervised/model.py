"""The model of a supervised experiment: a network, its inner loop and its criterion."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from metarl.core import Apply, InnerLoop, Params, Task
from metarl.supervised.losses import Criterion


Tasks: TypeAlias = Task | list[Task]
"""A meta-batch, or for tasks of different sizes a list of meta-batches with one task each."""

Draw: TypeAlias = Callable[[int, torch.Generator], Tasks]
"""A task sampler: ``(num_tasks, generator) -> tasks``."""


class Model(NamedTuple):
    """A network as a function, with its inner loop and criterion.

    Attributes:
        apply: The network: ``(params, inputs, *reference) -> predictions``.
        params: Initial parameters of the network.
        loop: Inner loop used in training.
        criterion: Criterion ``(predictions, targets) -> (loss, metrics)``.

    Example::

        >>> from metarl.core import InnerLoop, functional, sgd
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import Model, evaluate_batch, loss_of, squared_error
        >>> apply, params = functional(mlp((1, 40, 40, 1)))
        >>> loss = loss_of(evaluate_batch(apply, squared_error))
        >>> model = Model(apply, params, InnerLoop(loss, sgd(0.01)), squared_error)
    """

    apply: Apply
    params: Params
    loop: InnerLoop
    criterion: Criterion
