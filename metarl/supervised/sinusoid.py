"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core import Task, uniform


AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
DOMAIN = (-5.0, 5.0)


@dataclass(frozen=True)
class Sinusoids:
    """A sampler for sinusoid regression tasks (Finn et al. 2017, section 5.1).

    Each task is a function y = A sin(x − φ) without noise, with amplitude A ~ U(0.1, 5) and phase
    φ ~ U(0, π). Inputs are x ~ U(−5, 5).

    Attributes:
        shots: Number of support points per task.
        queries: Number of query points per task.
        observed: Use (x, A, φ) instead of x as inputs, for an oracle baseline that observes the
            task.

    Example::

        >>> from metarl.supervised import Sinusoids
        >>> tasks = Sinusoids(shots=10, queries=20).sample(4, torch.Generator().manual_seed(0))
        >>> x, y = tasks.query
        >>> x.shape
        torch.Size([4, 20, 1])
    """

    shots: int
    queries: int
    observed: bool = False

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Sample a meta-batch of tasks on the device of the generator.

        Args:
            num_tasks: Number of tasks.
            generator: Random generator for the tasks and inputs.

        Returns:
            A meta-batch with one support batch and a query batch. Both are tuples ``(inputs, y)``,
            with inputs of shape (task, point, 1), or (task, point, 3) if `observed`, and y of shape
            (task, point, 1).
        """
        points = self.shots + self.queries
        amplitude, phase, x = (
            low + (high - low) * uniform(num_tasks, number, 1, generator=generator)
            for (low, high), number in ((AMPLITUDE, 1), (PHASE, 1), (DOMAIN, points))
        )
        y = sinusoid(x, amplitude, phase)
        if self.observed:
            x = torch.cat([x, amplitude.expand_as(x), phase.expand_as(x)], -1)
        cut = [self.shots, self.queries]
        (x_support, x_query), (y_support, y_query) = (torch.split(z, cut, 1) for z in (x, y))
        return Task(((x_support, y_support),), (x_query, y_query))


def sinusoid(
    x: Float[Tensor, "*shape"], amplitude: Float[Tensor, "..."], phase: Float[Tensor, "..."]
) -> Float[Tensor, "*shape"]:
    """Return A sin(x − φ) for amplitude A and phase φ, elementwise."""
    return amplitude * torch.sin(x - phase)
