"""How well parameters adapt: loss and accuracy on the query after 0, 1, ..., K steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.adapt import InnerLoop
from metarl.core.speed import chunks, processes
from metarl.core.types import MetaParams, Task
from metarl.supervised.heads import body_of, nearest_neighbor
from metarl.supervised.model import Draw, Model
from metarl.util.statistics import interval95


BLOCK = 20  # tasks drawn at a time: bounds memory, and no result depends on it but the draw


class Curves(NamedTuple):
    """Measures by name (``loss``, ``accuracy``), each of shape (task, step)."""

    values: dict[str, NDArray[np.float64]]

    def mean(self, name: str) -> NDArray[np.float64]:
        """Return the mean over tasks after every step."""
        return np.asarray(self.values[name].mean(0))

    def interval(self, name: str) -> NDArray[np.float64]:
        """Return the half-width of its 95 % interval."""
        return interval95(self.values[name])


def adaptation_curves(
    model: Model,
    loop: InnerLoop,
    metas: Sequence[MetaParams],
    draw: Draw,
    *,
    num_tasks: int,
    generator: torch.Generator,
    chunk_size: int | None = None,
) -> Curves:
    """Adapt to new tasks and measure on their queries; builds no graph across steps.

    Args:
        model: The network and what to measure.
        loop: How it adapts, with the number of steps to take.
        metas: Meta-parameters; of several, predictions are averaged (MAML++'s ensemble of
            checkpoints averages logits).
        draw: Draws tasks.
        num_tasks: How many.
        generator: Their source.
        chunk_size: Tasks worked on at a time.
    """

    def curves(task: Task) -> dict[str, Tensor]:
        inputs, targets, *reference = task.query
        steps = []
        for at_step in zip(*(loop.steps(meta, task.support) for meta in metas), strict=True):
            predicted = [model.apply(params, inputs, *reference) for params in at_step]
            loss, metrics = model.criterion(torch.stack(predicted).mean(0), targets)
            steps.append({"loss": loss, **metrics})
        return {name: torch.stack([step[name] for step in steps]) for name in steps[0]}

    return _over_draws(curves, draw, num_tasks, generator, chunk_size)


def _over_draws(
    curves: Callable[[Task], dict[str, Tensor]],
    draw: Draw,
    num_tasks: int,
    generator: torch.Generator,
    chunk_size: int | None = None,
) -> Curves:
    found: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for first in range(0, num_tasks, BLOCK):
            tasks = draw(min(BLOCK, num_tasks - first), generator)
            parts = chunks.split(tasks, chunk_size) if isinstance(tasks, Task) else tasks
            own = parts[processes.rank() :: processes.size()]
            done = chunks.parallel_map(
                lambda part: chunks.over_tasks(curves, part), own, device=generator.device
            )
            found += processes.interleaved(done, len(parts))
    joined = chunks.join(found)
    return Curves({name: x.double().cpu().numpy() for name, x in joined.items()})


def neighbor_curves(
    model: Model, loop: InnerLoop, metas: Sequence[MetaParams], draw: Draw, **options: Any
) -> Curves:
    """Classify by the nearest support example in feature space; the curve is one point.

    Arguments are those of :func:`adaptation_curves`; only the first of `metas` is used.
    """
    features = body_of(model.apply.module)

    def curves(task: Task) -> dict[str, Tensor]:
        params = next(loop.steps(metas[0], task.support))
        logits = nearest_neighbor(features, params, task.support[0], task.query)
        loss, metrics = model.criterion(logits, task.query[1])
        return {name: x[None] for name, x in {"loss": loss, **metrics}.items()}

    return _over_draws(curves, draw, **options)
