"""A network with its inner loop and its loss, and what draws tasks for it."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from metarl.core import Apply, InnerLoop, Params, Task
from metarl.supervised.losses import Criterion


Tasks: TypeAlias = Task | list[Task]
"""A meta-batch, or a list of meta-batches of one task each where tasks have unequal sizes."""

Draw: TypeAlias = Callable[[int, torch.Generator], Tasks]
"""``(number of tasks, generator) -> tasks``."""


class Model(NamedTuple):
    """A network as a function, and what the inner loop starts and differentiates.

    Attributes:
        apply: ``(params, inputs) -> predictions``.
        params: Its initial parameters.
        loop: How it adapts in training.
        criterion: ``(predictions, targets) -> (loss, metrics)``.
    """

    apply: Apply
    params: Params
    loop: InnerLoop
    criterion: Criterion
