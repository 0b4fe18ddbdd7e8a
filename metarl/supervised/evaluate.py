"""Evaluation of few-shot learners: query loss and accuracy after 0, 1, ..., K inner steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.core import InnerLoop, MetaParams, Params, Task, torch_generator
from metarl.core.speed import chunks, processes
from metarl.supervised import heads
from metarl.supervised.model import Draw, Model, Sampler, draw_of
from metarl.util import Table, at_least, interval95, print_table


BLOCK = 20  # tasks sampled at a time, which bounds memory; changing it changes the sampled tasks


class Curves(NamedTuple):
    """Evaluation metrics per task and inner step.

    Attributes:
        values: Arrays of shape (tasks, steps + 1) by metric name: ``loss``
            and, in classification, ``accuracy`` as a fraction from 0 to 1.
            Column k is measured after k inner steps.
    """

    values: dict[str, NDArray[np.float64]]

    def mean(self, name: str) -> NDArray[np.float64]:
        """Return the mean over tasks of the metric `name`, per inner step; shape (steps + 1,)."""
        return np.asarray(self.values[name].mean(0))

    def interval(self, name: str) -> NDArray[np.float64]:
        """Return the half-width of the 95 % confidence interval for the mean, per inner step.

        Args:
            name: Name of the metric.

        Returns:
            Half-widths of shape (steps + 1,).
        """
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
    """Adapt to sampled tasks and evaluate the query sets after every inner step.

    No computation graph is kept between inner steps. In distributed training,
    the tasks are divided among all ranks, and every rank returns the results
    for all tasks.

    Args:
        model: The network and the criterion. The inner loop of the model is not used.
        loop: The inner loop for the evaluation, including the number of inner steps.
        metas: One or more sets of meta-parameters. If there are several, each
            one is adapted separately, and the outputs of the network
            (logits for classifiers) are averaged, as in the checkpoint
            ensemble of MAML++ (Antoniou et al. 2019).
        draw: Function ``(num_tasks, generator) -> tasks``, such as the
            `sample` method of :class:`FewShot`.
        num_tasks: Number of tasks to evaluate.
        generator: Random generator for the tasks.
        chunk_size: Number of tasks evaluated at once; lower values need less
            memory. Defaults to 20; higher values are reduced to 20.
        nearest_neighbor: Assign each query example to the class of the
            nearest support example in feature space, without inner steps. The
            curves then contain only step 0.

    Returns:
        The loss and the metrics of the criterion, per task and inner step.

    Raises:
        ValueError: If `nearest_neighbor` is set and the network is not a
            :class:`~metarl.nn.Classifier`.

    Example::

        >>> from metarl.core import InnerLoop, functional, sgd
        >>> from metarl.nn import mlp
        >>> from metarl.supervised import Model, Sinusoids, adaptation_curves
        >>> from metarl.supervised import evaluate_batch, loss_of, squared_error
        >>> apply, params = functional(mlp((1, 40, 40, 1)))
        >>> loss = loss_of(evaluate_batch(apply, squared_error))
        >>> loop = InnerLoop(loss, sgd(0.01), num_steps=5)
        >>> model = Model(apply, params, loop, squared_error)
        >>> curves = adaptation_curves(
        ...     model, loop, [loop.init(params)], Sinusoids(10, 10).sample,
        ...     num_tasks=100, generator=torch.Generator().manual_seed(0))
        >>> curves.mean("loss").shape
        (6,)
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
    return Curves({name: x.double().cpu().numpy() for name, x in chunks.join(found).items()})


def curves_table(curves: Curves, title: str) -> Table:
    """Return a table of means and 95 % confidence intervals with one row per number of inner steps.

    Accuracies are in %.

    Args:
        curves: The results.
        title: Title of the table.

    Example::

        >>> import numpy as np
        >>> from metarl.supervised import Curves, curves_table
        >>> curves_table(Curves({"loss": np.ones((4, 2))}), "4 tasks").rows
        [[0, '1.000', '0.000'], [1, '1.000', '0.000']]
    """
    columns, numbers = ["inner steps"], []
    for name in curves.values:
        unit = 100 if name == "accuracy" else 1
        columns += [name, f"{name} ± 95 %"]
        numbers += [unit * curves.mean(name), unit * curves.interval(name)]
    steps = enumerate(zip(*numbers, strict=True))
    return Table(title, columns, [[step, *(f"{n:.3f}" for n in row)] for step, row in steps])


def evaluate_tasks(
    model: Model,
    params: MetaParams,
    draw: Draw | Sampler,
    *,
    num_tasks: int = 600,
    inner_steps: int | None = None,
    seed: int = 1,
) -> Curves:
    """Adapt to new tasks, and print the loss and accuracy on query sets after every inner step.

    The printed table has the same format as the table of ``metarl evaluate``.

    Args:
        model: The model, such as the result of :func:`maml_model`.
        params: The meta-parameters, such as the result of :func:`fit`.
        draw: Function ``(num_tasks, generator) -> tasks``, or an object with a method
            ``sample(num_tasks, generator)``, such as :class:`FewShot` with test classes.
        num_tasks: Number of tasks to evaluate.
        inner_steps: Number of inner steps. Default: the number of inner steps in training.
        seed: Random seed for sampling the tasks.

    Returns:
        The loss and the metrics of the criterion, per task and inner step.

    Raises:
        ValueError: If `num_tasks` is below 1.

    Example::

        from metarl.nn import mlp
        from metarl.supervised import Sinusoids, evaluate_tasks, fit, maml_model, squared_error

        model = maml_model(mlp((1, 40, 40, 1)), squared_error, inner_lr=0.01)
        params = fit(model, Sinusoids(10, 10).sample, iterations=100)
        curves = evaluate_tasks(model, params, Sinusoids(10, 100).sample)
        curves.mean("loss")  # mean over 600 tasks, before and after one inner step
    """
    at_least(1).check("num_tasks", num_tasks)
    steps = model.loop.num_steps if inner_steps is None else inner_steps
    device = next(iter(params.model.values())).device
    curves = adaptation_curves(
        model,
        replace(model.loop, num_steps=steps),
        [params],
        draw_of(draw),
        num_tasks=num_tasks,
        generator=torch_generator(seed, 0, "test", device=device),
    )
    print_table(*curves_table(curves, f"{num_tasks} tasks"))
    return curves
