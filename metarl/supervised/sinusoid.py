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
    """Tasks y = A sin(x − φ) with A ~ U(0.1, 5), φ ~ U(0, π) and points x ~ U(−5, 5), no noise.

    Attributes:
        shots: Support points of each task.
        queries: Query points of each task.
        observed: Inputs are (x, A, φ) instead of x: what an oracle sees.
    """

    shots: int
    queries: int
    observed: bool = False

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Draw a meta-batch on the device of the generator: x and y of shape (task, point, 1)."""
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
    """Return A sin(x − φ)."""
    return amplitude * torch.sin(x - phase)
