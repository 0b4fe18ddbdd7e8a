"""How well parameters adapt: loss and accuracy on the query after 0, 1, ..., K steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.core import InnerLoop, MetaParams, Params, Task
from metarl.core.speed import chunks, processes
from metarl.supervised import heads
from metarl.supervised.model import Draw, Model
from metarl.util import interval95


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
    nearest_neighbor: bool = False,
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
        nearest_neighbor: Classify by the nearest support example in feature space, and take no
            inner steps; the curve is one point.
    """
    if nearest_neighbor:
        loop, features = replace(loop, num_steps=0), heads.body_of(model.apply.module)

    def predict(params: Params, task: Task) -> Tensor:
        if nearest_neighbor:
            return heads.nearest_neighbor(features, params, task.support[0], task.query)
        inputs, _, *reference = task.query
        return cast(Tensor, model.apply(params, inputs, *reference))

    def curves(task: Task) -> dict[str, Tensor]:
        steps = []
        for at_step in zip(*(loop.steps(meta, task.support) for meta in metas), strict=True):
            predicted = torch.stack([predict(params, task) for params in at_step])
            loss, metrics = model.criterion(predicted.mean(0), task.query[1])
            steps.append({"loss": loss, **metrics})
        return {name: torch.stack([step[name] for step in steps]) for name in steps[0]}

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
