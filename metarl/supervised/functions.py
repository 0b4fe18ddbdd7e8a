"""Regression tasks that a user-defined function samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.core import Task
from metarl.util import at_least


@dataclass(frozen=True)
class FunctionTasks:
    """A sampler for regression tasks, which calls a user-defined function once per task.

    Attributes:
        function: Function ``(points, generator) -> (x, y)`` that samples the
            points of one new task. `x` and `y` are tensors or arrays with a
            leading axis of size `points`; vectors become columns. Use the
            generator for all random numbers, so that results are reproducible.
        shots: Number of support points per task.
        queries: Number of query points per task.

    Raises:
        ValueError: If `shots` or `queries` is below 1; from `sample`, if the
            function returns a different number of points.

    Example::

        >>> from metarl.supervised import FunctionTasks
        >>> def line(points, generator):
        ...     x = torch.rand(points, generator=generator)
        ...     return x, torch.rand(1, generator=generator) * x
        >>> tasks = FunctionTasks(line, shots=5, queries=10).sample(4, torch.Generator())
        >>> tasks.query[1].shape
        torch.Size([4, 10, 1])
    """

    function: Callable[[int, torch.Generator], tuple[Any, Any]]
    shots: int
    queries: int

    def __post_init__(self) -> None:
        at_least(1).check("shots", self.shots)
        at_least(1).check("queries", self.queries)

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Sample a meta-batch of tasks on the device of the generator.

        Args:
            num_tasks: Number of tasks.
            generator: Random generator, which is passed to the function.

        Returns:
            A meta-batch with one support batch and a query batch. Both are
            tuples ``(x, y)`` with leading axes (task, point).
        """
        points = self.shots + self.queries
        drawn = [self.function(points, generator) for _ in range(num_tasks)]
        x, y = (
            torch.stack([self._column(value, generator.device) for value in values])
            for values in zip(*drawn, strict=True)
        )
        cut = self.shots
        return Task(((x[:, :cut], y[:, :cut]),), (x[:, cut:], y[:, cut:]))

    def _column(self, value: Any, device: torch.device) -> Tensor:
        column = torch.as_tensor(value, device=device).float()
        points = self.shots + self.queries
        if column.ndim == 0 or len(column) != points:
            raise ValueError(
                f"`function` must return x and y with {points} points (shots + queries), got shape "
                f"{tuple(column.shape)}"
            )
        return column[:, None] if column.ndim == 1 else column
