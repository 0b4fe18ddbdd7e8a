"""The model in a supervised experiment: a network with an inner loop and a criterion."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch

from metarl.core import Apply, InnerLoop, Params, Task
from metarl.supervised.losses import Criterion


Tasks: TypeAlias = Task | list[Task]
"""A meta-batch, or a list with one meta-batch per task if the tasks have different sizes."""

Draw: TypeAlias = Callable[[int, torch.Generator], Tasks]
"""A function ``(num_tasks, generator) -> tasks`` that samples tasks with a torch generator."""


@runtime_checkable
class Sampler(Protocol):
    """An object with a method `sample` that is a :data:`Draw`, such as :class:`FewShot`."""

    def sample(self, num_tasks: int, generator: torch.Generator, /) -> Tasks:
        """Sample `num_tasks` tasks with random numbers from `generator`."""
        ...


def draw_of(source: Draw | Sampler) -> Draw:
    """Return the sampling function of a task sampler.

    Args:
        source: A function ``(num_tasks, generator) -> tasks``, which is returned unchanged, or an
            object with a method ``sample(num_tasks, generator)``.

    Raises:
        TypeError: If `source` is neither a function nor an object with a method `sample`.
    """
    draw: Any = getattr(source, "sample", source)
    if not callable(draw):
        raise TypeError(
            "`draw` must be a function (num_tasks, generator) -> tasks or have a method `sample`, "
            f"got {type(source).__name__}"
        )
    made: Draw = draw
    return made


class Model(NamedTuple):
    """A network as a function, with an inner loop and a criterion.

    Attributes:
        apply: The network as a function ``(params, inputs, *reference) ->
            predictions``. The optional reference inputs are for normalization
            layers; see :func:`with_reference`.
        params: Initial parameters of the network.
        loop: Inner loop for training.
        criterion: Loss function ``(predictions, targets) -> (loss, metrics)``.

    Example::

        >>> from metarl.core import InnerLoop, functional, sgd
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import Model, evaluate_batch, loss_of, squared_error
        >>> apply, params = functional(mlp((1, 40, 40, 1)))
        >>> loss = loss_of(evaluate_batch(apply, squared_error))
        >>> model = Model(apply, params, InnerLoop(loss, sgd(0.01)), squared_error)
        >>> model.apply(model.params, torch.rand(10, 1)).shape
        torch.Size([10, 1])
    """

    apply: Apply
    params: Params
    loop: InnerLoop
    criterion: Criterion
