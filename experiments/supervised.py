"""Base classes for training, validation and evaluation in the supervised experiments."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from metarl.core import (
    MetaLearner,
    MetaParams,
    MetaState,
    Metrics,
    Task,
    sgd,
    torch_generator,
    tree,
)
from metarl.core.speed import processes
from metarl.experiment import Experiment, Report
from metarl.experiments.supervised_evaluation import SupervisedEvaluation
from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.supervised_setup import Parts, started
from metarl.experiments.tuning import best_rate
from metarl.runs import Run, Subject
from metarl.supervised import Curves, adaptation_curves, curves_table
from metarl.supervised.methods import METHODS
from metarl.supervised.model import Tasks
from metarl.util import raise_if


Config = TypeVar("Config", bound=SupervisedConfig)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
OVERRIDES = (
    "test_steps", "num_ways", "num_shots", "test_queries", "bn_mode", "data_root", "encoder",
)  # fmt: skip
"""Names of the run settings that flags of ``metarl evaluate`` override."""


class SupervisedTraining(Experiment[Config]):
    """Base class for few-shot experiments with a network, task samplers and an inner loop."""

    data: ClassVar[str] = ""
    """Name of the data set in model cards, used if the configuration has no field `data`."""
    family: ClassVar[str]
    """Task family in model cards, such as ``few-shot-regression``."""
    usage: ClassVar[str]
    """Key of the example code in model cards, such as ``images``."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.complete())

    @cached_property
    @abstractmethod
    def parts(self) -> Parts:
        """The model, the meta-learner and the task samplers."""

    def init(self) -> MetaState:
        """Return the initial parameters and the initial state of the outer optimizer."""
        return self.learner(1).init(self.parts.model.params, device=self.device)

    def draw(self, state: MetaState, iteration: int) -> tuple[Tasks, Metrics]:
        """Sample a meta-batch, and return the tasks of this process with an empty dictionary."""
        del state
        generator = torch_generator(self.config.seed, iteration, "tasks", device=self.device)
        tasks = self.parts.draw(self.config.num_tasks or 1, generator)
        return share_of(tasks, multiple=self.parts.train_chunk or 1), {}

    def learner(self, iteration: int) -> MetaLearner:
        """Return the meta-learner of an iteration, counted from 1."""
        return self.parts.learner(iteration)

    def validate(self, state: MetaState) -> Metrics:
        """Return the mean loss and accuracy after the last inner step on fixed validation tasks.

        Args:
            state: The training state, of which only the meta-parameters are used.

        Returns:
            Scalar tensors by name, such as ``validation/loss``; empty without validation tasks.
        """
        if not self.config.validation_tasks:
            return {}
        curves = adaptation_curves(
            self.parts.model,
            self.parts.test_loop,
            [state.params],
            self.parts.evaluated["validation"],
            num_tasks=self.config.validation_tasks,
            generator=torch_generator(self.config.seed, 0, "validation", device=self.device),
            chunk_size=self.parts.chunk_size,
        )
        return {f"validation/{n}": torch.tensor(curves.mean(n)[-1]) for n in curves.values}

    def describe(self) -> Subject:
        """Return the method, paper and data set of the run, for model cards and tables."""
        method, data = self.config.method, getattr(self.config, "data", self.data)
        usage = "" if method == "oracle" else self.usage
        return Subject(method, METHODS[method].paper, data, self.family, usage, "plot")


class Supervised(SupervisedTraining[Config]):
    """Base class for few-shot experiments that report results after every inner step."""

    evaluation = SupervisedEvaluation
    quick = ("--num-tasks", "100")

    def with_options(self, options: SupervisedEvaluation) -> Experiment[Config]:
        """Return a copy of the experiment with its settings overridden by the evaluation options.

        Raises:
            ValueError: If the run does not support an option.
        """
        config, run, start = self.config, options.run, options.start
        values = {n: v for n in OVERRIDES if (v := getattr(options, n)) is not None}
        values |= {"test_steps": 0} if options.nearest_neighbor else {}
        other = {"data": options.data} if options.data else {}
        unknown = [name for name in values | other if not hasattr(config, name)]
        ways = getattr(config, "num_ways", None)
        wants = "`start`" if start else "nearest_neighbor"
        classes = (options.nearest_neighbor or start) and ways is None
        learned = (start or config.start) == "learned" and config.method != "pretrained"
        steps = values.get("test_steps", config.test_steps)
        raise_if(
            (
                unknown,
                f"{run} was trained by `metarl train {self.name}`, which has no setting "
                f"{', '.join(unknown)}; remove the option",
            ),
            (
                classes,
                f"{wants} requires classification tasks, but {run} was trained on regression "
                f"tasks; remove {wants}",
            ),
            (
                start == "learned" != config.start,
                f"start=learned is not supported because {run} has no learned head; remove `start`",
            ),
            (
                options.num_ways not in (None, ways) and learned,
                f"{run} has a learned head for {ways} classes; use start=zero or prototypes for "
                f"{options.num_ways} classes",
            ),
            (
                options.tune_inner_lr and not steps,
                "tune_inner_lr requires test_steps of at least 1, got 0; increase test_steps",
            ),
        )
        return self.changed(**values)

    def checkpoints_for(self, run: Run, options: SupervisedEvaluation) -> list[int]:
        """Return the iterations of the checkpoints to evaluate.

        An ensemble consists of the checkpoints with the highest validation
        accuracy, or with the lowest validation loss in regression. Otherwise,
        the options select one checkpoint.
        """
        if options.ensemble == 1:
            return super().checkpoints_for(run, options)
        scores = {
            entry["iteration"]: entry.get("validation/accuracy", -entry["validation/loss"])
            for entry in run.metrics()
            if "validation/loss" in entry
        }
        saved = [i for i in run.checkpoints() if not np.isnan(scores.get(i, np.nan))]
        if len(saved) < options.ensemble:
            raise ValueError(
                f"`ensemble` must be at most {len(saved)}, the number of validated checkpoints in "
                f"{run.folder}, got {options.ensemble}"
            )
        return sorted(saved, key=lambda iteration: -scores[iteration])[: options.ensemble]

    def evaluate(self, metas: Sequence[MetaParams], options: SupervisedEvaluation) -> Report:
        """Report the mean loss and accuracy before adaptation and after each inner step."""
        self.require_matching(metas[0])
        if options.start not in (None, self.config.start):
            loop = started(self.parts.test_loop, options.start, self.parts.model)
            self.parts = self.parts._replace(test_loop=loop)
        rate, tables = options.inner_lr, []
        if options.tune_inner_lr:
            others = replace(options, tasks="validation", num_tasks=min(options.num_tasks, 100))
            results = [self.measure(metas, others, rate) for rate in RATES]
            measure = main_measure(results[0])
            ends = [curves.mean(measure)[-1] for curves in results]
            title = "step size, on validation tasks"
            rate, table = best_rate(title, measure, RATES, ends, least=measure == "loss")
            tables = [table]
        curves = self.measure(metas, options, rate)
        asked = self._protocol(options)
        # 0 is kept because it is a valid seed and number of steps.
        given = {n: value for n, value in asked.items() if value is not None and value is not False}
        measures = {
            name: {"mean": curves.mean(name).tolist(), "interval95": curves.interval(name).tolist()}
            for name in curves.values
        }
        measure = main_measure(curves)
        values = asked | {
            "method": self.config.method,
            "inner_lr": self.config.inner_lr if rate is None else rate,
            "transductive": getattr(self.config, "bn_mode", None) == "query",
            "measure": measure,
            "measures": measures,
        }
        name = "_".join(f"{key}-{value}" for key, value in given.items())
        table = curves_table(curves, f"{options.num_tasks} {options.tasks} tasks")
        return Report(name, values | measures[measure], [*tables, table])

    def measure(
        self, metas: Sequence[MetaParams], options: SupervisedEvaluation, rate: float | None
    ) -> Curves:
        """Measure the loss and accuracy before adaptation and after each inner step.

        Args:
            metas: Meta-parameters of one checkpoint, or of several checkpoints
                whose logits are averaged.
            options: The flags of ``metarl evaluate``, which set the split,
                the number and the seed of the tasks.
            rate: Step size of gradient descent, which replaces the inner
                optimizer. Default: the inner optimizer of the run.

        Returns:
            One value per metric, task and number of inner steps.
        """
        loop = self.parts.test_loop
        return adaptation_curves(
            self.parts.model,
            loop if rate is None else replace(loop, optimizer=sgd(rate)),
            metas,
            self.parts.evaluated[options.tasks],
            num_tasks=options.num_tasks,
            generator=torch_generator(options.seed, 0, options.tasks, device=self.device),
            chunk_size=self.parts.chunk_size,
            nearest_neighbor=options.nearest_neighbor,
        )

    def _protocol(self, options: SupervisedEvaluation) -> dict[str, Any]:
        """Return the settings in `options` and in the run that define an evaluation, by name."""
        config: Any = self.config
        ways = getattr(config, "num_ways", None)
        generator = torch_generator(0, 0, "size", device=self.device)
        task = self.parts.evaluated[options.tasks](1, generator)
        queries = task.query[0].shape[1] // (ways or 1) if isinstance(task, Task) else None
        return {
            "tasks": options.tasks,
            "num_tasks": options.num_tasks,
            "num_ways": ways,
            "num_shots": None if getattr(config, "variable", False) else config.num_shots,
            "num_queries": queries,
            "test_steps": config.test_steps,
            "seed": options.seed,
            "ensemble": options.ensemble if options.ensemble > 1 else None,
            "bn_mode": options.bn_mode,
            "start": options.start,
            "inner_lr": options.inner_lr,
            "nearest_neighbor": options.nearest_neighbor,
            "tuned": options.tune_inner_lr,
        }


def share_of(tasks: Tasks, *, multiple: int = 1) -> Tasks:
    """Return the part of a meta-batch that this process uses in distributed training.

    Args:
        tasks: The whole meta-batch, which is the same in all processes.
        multiple: Number of tasks per chunk. Chunks are not split between
            processes if there are enough chunks.
    """
    if isinstance(tasks, Task):
        return processes.share(len(tree.leaves(tasks)[0]), multiple=multiple).of_batch(tasks)
    return processes.share(len(tasks)).of_list(tasks)


def main_measure(curves: Curves) -> str:
    """Return the main metric in `curves`: ``accuracy`` in classification, otherwise ``loss``."""
    return "accuracy" if "accuracy" in curves.values else "loss"
