"""Evaluation on few-shot text tasks: accuracy after adaptation to fixed support sets.

``metarl evaluate runs/leopard --tasks airline,restaurant,conll --shots 4,8,16``
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
import tyro

from metarl.core import InnerLoop, MetaParams
from metarl.experiment import Evaluation, Report
from metarl.runs import unset
from metarl.supervised import Model
from metarl.text import Prepare, Sentences, TextTask, accuracies, encoded, evaluation_rows
from metarl.text.files import NUM_SAMPLES
from metarl.util import Conflicts, Table, at_least, interval95, say


Results: TypeAlias = dict[str, dict[int, torch.Tensor]]
"""Accuracies by task name and number of shots. Each tensor has the shape
(support sets, 2), for the accuracies before and after adaptation."""


@dataclass(frozen=True)
class TextEvaluation(Evaluation):
    """Adapt to support sets of test tasks, and report the accuracy after adaptation.

    The table shows the mean ± standard deviation over support sets. The
    tasks published with LEOPARD use the support sets of Bansal et al.
    2020. For other tasks, support sets are sampled with fixed seeds.
    """

    tasks: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: the held-out tasks)")] = ""
    """Names of the test tasks, separated by commas. If not set, the run's held-out tasks
    are used."""
    shots: str = "4,8,16"
    """Numbers of support sentences per class, separated by commas. Each number is evaluated."""
    samples: Annotated[int, at_least(1)] = NUM_SAMPLES
    """Number of support sets for each task and number of shots; the LEOPARD data contain 10."""
    queries: Annotated[int | None, at_least(1), unset("all")] = None
    """Number of evaluation sentences per task, sampled without replacement."""
    test_steps: Annotated[
        int | None,
        at_least(0),
        tyro.conf.arg(aliases=["--inner-steps"]),
        unset("value used in training"),
    ] = None
    """Number of inner steps that adapt the classifier to each support set."""
    inner_lr: Annotated[float | None, at_least(0), unset("value used in training")] = None
    """Step size of the inner steps; not supported for runs with learned step sizes."""
    data_root: Annotated[Path | None, unset("value used in training")] = None
    """Folder that contains the test tasks; set this to use other tasks, or if the folder has moved
    since training."""
    encoder: Annotated[str | None, unset("value used in training")] = None
    """Folder or Hugging Face name of the encoder; set this if the folder has
    moved since training."""

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        numbers = names(self.shots)
        wrong = not numbers or not all(n.isdecimal() and int(n) for n in numbers)
        return [(wrong, f"`shots` must be positive integers such as 4,8,16, got {self.shots!r}")]


def names(listed: str) -> list[str]:
    """Return the distinct names in the comma-separated text `listed`, in the original order."""
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def measure(
    model: Model,
    loop: InnerLoop,
    params: MetaParams,
    tasks: list[TextTask],
    options: TextEvaluation,
    tokenizer: Callable[..., Sentences],
    prepare: Prepare,
) -> Results:
    """Adapt to every support set of every task, and measure the accuracy before and after.

    One line is printed per task and number of shots.

    Args:
        model: The classifier.
        loop: The inner loop.
        params: The meta-parameters.
        tasks: The test tasks.
        options: The flags; `shots`, `samples`, `queries` and `seed` are used.
        tokenizer: Function ``(rows, task) -> sentences`` that tokenizes rows of a task.
        prepare: Function ``(support set, index) -> batches`` for the inner steps. The index
            numbers the support sets of a task from 0.

    Returns:
        The accuracies, as fractions from 0 to 1; see :data:`Results`.
    """
    shots = [int(number) for number in names(options.shots)]
    samples = {  # sampled first, so that invalid shots fail early
        (task.name, number): [task.sample(number, index) for index in range(options.samples)]
        for task in tasks
        for number in shots
    }
    results: Results = {}
    for task in tasks:
        rows = evaluation_rows(len(task.evaluation), options.queries, options.seed).tolist()
        judged = tokenizer([task.evaluation[row] for row in rows], task)
        evaluation = encoded(model, params, judged)
        results[task.name] = {}
        for number in shots:
            support = [tokenizer(rows, task) for rows in samples[task.name, number]]
            found = accuracies(model, loop, params, support, evaluation, prepare)
            results[task.name][number] = found
            done = sum(map(len, results.values()))
            cell = f"{task.name}, {number} shots: {_cell(found)} %"
            say(f"{done}/{len(samples)}  {cell}")  # a line can take minutes
    return results


def report(results: Results, options: TextEvaluation, about: dict[str, Any]) -> Report:
    """Return a report with a table: one row per task, and one column per number of shots.

    For ``values["mean"]`` and ``values["interval95"]``, the accuracy with
    each support set is first averaged over tasks and numbers of shots.

    Args:
        results: Accuracies from :func:`measure`.
        options: The flags of ``metarl evaluate``.
        about: Method and settings of the run.
    """
    shots = [*next(iter(results.values()))]
    rows = [[task, *(_cell(ends) for ends in found.values())] for task, found in results.items()]
    title = f"accuracy of {about['method']} in %, mean ± standard deviation over "
    title += f"{options.samples} support sets"
    table = Table(title, ["task", *(f"{number}-shot" for number in shots)], rows)
    cells = [x.numpy() for found in results.values() for x in found.values()]
    ends = np.mean(cells, 0)  # mean of every sample over tasks and numbers of shots
    values = about | {
        "measure": "accuracy",
        "tasks": ", ".join(results),
        "num_tasks": len(results),
        "num_shots": options.shots,
        "samples": options.samples,
        "num_queries": options.queries,
        "seed": options.seed,
        "accuracies": {  # per sample, before and after the inner steps
            task: {str(number): x.tolist() for number, x in found.items()}
            for task, found in results.items()
        },
        "mean": ends.mean(0).tolist(),
        "interval95": interval95(ends).tolist(),
    }
    return Report(file_name(options, values), values, [table])


def file_name(options: TextEvaluation, values: dict[str, Any]) -> str:
    """Return a file name that contains the settings of an evaluation, without a suffix.

    Args:
        options: The flags of ``metarl evaluate``.
        values: JSON values of the report; `tasks`, `num_tasks` and `test_steps` are used.
    """
    tasks = values["tasks"].replace(", ", "_")
    if len(tasks) > 80:  # file names are limited to 255 characters
        tasks = f"{values['num_tasks']}-tasks-{zlib.crc32(tasks.encode()):08x}"
    settings = {
        "shots": options.shots,
        "samples": options.samples,
        "queries": options.queries or "all",
        "steps": values["test_steps"],
        "seed": options.seed,
        **({} if options.inner_lr is None else {"lr": options.inner_lr}),
    }
    return "_".join([tasks, *(f"{key}-{value}" for key, value in settings.items())])


def _cell(ends: torch.Tensor) -> str:
    last = 100 * ends[:, -1]
    return f"{last.mean():.2f} ± {last.std() if len(last) > 1 else 0.0:.2f}"
