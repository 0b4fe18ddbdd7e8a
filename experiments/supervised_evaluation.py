"""Evaluation of regression and of image classification: results after every inner step."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from metarl.core.inner import sgd
from metarl.core.seeding import torch_generator
from metarl.core.types import MetaParams, Task
from metarl.experiment import Evaluation, Experiment, Report, Table
from metarl.experiments.supervised import Config, SupervisedTraining
from metarl.experiments.supervised_setup import started
from metarl.runs.folder import Run
from metarl.supervised.evaluate import Curves, adaptation_curves
from metarl.supervised.methods import Start
from metarl.util.ranges import at_least


RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
OVERRIDES = ("test_steps", "num_ways", "num_shots", "test_queries", "bn_mode", "data_root")
"""Settings that an evaluation can replace."""


@dataclass(frozen=True)
class SupervisedEvaluation(Evaluation):
    """Adapt to test tasks as in the papers, and report every step.

    Tasks come from classes, or sinusoids, that training has not met. What is left at None is as in
    the run.
    """

    test_steps: Annotated[int | None, at_least(0), tyro.conf.arg(aliases=["--inner-steps"])] = None
    """Inner steps."""
    num_tasks: Annotated[int, at_least(1)] = 600
    """Tasks."""
    tasks: Literal["test", "validation", "train"] = "test"
    """Where the tasks come from."""
    num_ways: Annotated[int | None, tyro.conf.arg(aliases=["--ways"])] = None
    """Classes of a task; a learned head takes only as many as it was trained with."""
    num_shots: Annotated[int | None, at_least(1), tyro.conf.arg(aliases=["--shots"])] = None
    """Support examples of each class, or points."""
    test_queries: Annotated[int | None, at_least(1), tyro.conf.arg(aliases=["--queries"])] = None
    """Query images of each class; of one image, as in MAML's own evaluation, a transductive
    method learns that classes are equally frequent."""
    bn_mode: Literal["query", "support"] | None = None
    """Statistics that normalize the query: its own (transductive) or the support set's."""
    start: Start | None = None
    """Head to start from: what a pretrained run is fine-tuned with."""
    nearest_neighbor: bool = False
    """Classify by the nearest support image in feature space instead of adapting."""
    inner_lr: Annotated[float | None, at_least(0)] = None
    """Plain gradient descent with this step size instead of the run's inner optimizer."""
    tune_inner_lr: bool = False
    """Choose that step size first, on 100 validation tasks: how a pretrained run or, with
    --checkpoint 0, a random network is fine-tuned."""
    ensemble: Annotated[int, at_least(1)] = 1
    """Average the logits of so many checkpoints, the best on validation tasks (MAML++: 5)."""
    data_root: Path | None = None
    """Where the images are now."""

    def __post_init__(self) -> None:
        """Raise a ValueError for impossible settings."""
        super().__post_init__()
        if self.tune_inner_lr and self.inner_lr is not None:
            raise ValueError("tune_inner_lr chooses the step size; leave out inner_lr")
        if self.ensemble > 1 and self.checkpoint is not None:
            raise ValueError("`ensemble` chooses the checkpoints; leave out `checkpoint`")
        others = ("test_steps", "inner_lr", "tune_inner_lr", "start")
        if self.nearest_neighbor and (self.ensemble > 1 or any(getattr(self, n) for n in others)):
            listed = "test_steps, inner_lr, tune_inner_lr, `start`"
            raise ValueError(f"nearest_neighbor does not adapt; leave out `ensemble`, {listed}")


class Supervised(SupervisedTraining[Config]):
    """Few-shot learning whose result is a curve over the inner steps."""

    evaluation = SupervisedEvaluation
    quick = ("--num-tasks", "100")

    def asked(self, options: SupervisedEvaluation) -> Experiment[Config]:
        """Put what was asked for in place of the run's settings."""
        config: Any = self.config
        values = {n: v for n in OVERRIDES if (v := getattr(options, n)) is not None}
        if unknown := sorted(set(values) - {field.name for field in fields(config)}):
            raise ValueError(f"{options.run} is a run without {', '.join(unknown)}")
        ways = getattr(config, "num_ways", None)
        if (options.nearest_neighbor or options.start) and ways is None:
            given = "`start`" if options.start else "nearest_neighbor"
            raise ValueError(f"{given} needs classes, and {options.run} has none")
        if options.start == "learned" != config.start:
            raise ValueError(f"{options.run} learned no head; leave out `start`")
        learned = (options.start or config.start) == "learned" and config.method != "pretrained"
        if options.num_ways not in (None, ways) and learned:
            raise ValueError(
                f"{options.run} learned a head for {ways} classes; use start=zero or prototypes "
                f"for {options.num_ways}"
            )
        if options.nearest_neighbor:
            values["test_steps"] = 0
        if options.tune_inner_lr and not values.get("test_steps", config.test_steps):
            raise ValueError("tune_inner_lr needs test_steps of at least 1")
        return self.changed(**values)

    def chosen(self, run: Run, options: SupervisedEvaluation) -> list[int]:
        """Return the checkpoint asked for, or those with the best validation in training."""
        if options.ensemble == 1:
            return super().chosen(run, options)
        scores = {
            entry["iteration"]: entry.get("validation/accuracy", -entry["validation/loss"])
            for entry in run.metrics()
            if "validation/loss" in entry
        }
        saved = [i for i in run.checkpoints() if not np.isnan(scores.get(i, np.nan))]
        if len(saved) < options.ensemble:
            raise ValueError(
                f"ensemble={options.ensemble} needs as many checkpoints with a validation, "
                f"{run.folder} has {len(saved)}"
            )
        return sorted(saved, key=lambda iteration: -scores[iteration])[: options.ensemble]

    def evaluate(self, metas: Sequence[MetaParams], options: SupervisedEvaluation) -> Report:
        """Return loss and accuracy after 0, 1, ..., K steps on test tasks."""
        self.require_fitting(metas[0])
        if options.start is not None and options.start != self.config.start:
            loop = started(self.parts.test_loop, options.start, self.parts.model)
            self.parts = self.parts._replace(test_loop=loop)
        rate, tables = options.inner_lr, []
        if options.tune_inner_lr:
            rate, table = self._tuned_rate(metas, options)
            tables = [table]
        curves = self.measure(metas, options, rate)
        tables.append(_table(options, curves))
        asked = self._protocol(options)
        # 0 stays: it is a seed, and a number of steps.
        given = {n: value for n, value in asked.items() if value is not None and value is not False}
        name = "_".join(f"{key}-{value}" for key, value in given.items())
        measure = judged_by(curves)
        values = asked | {
            "method": self.config.method,
            "inner_lr": self.config.inner_lr if rate is None else rate,
            "transductive": getattr(self.config, "bn_mode", None) == "query",
            "measure": measure,
            "measures": {
                name: {"mean": curves.mean(name).tolist(),
                       "interval95": curves.interval(name).tolist()}
                for name in curves.values
            },
        }  # fmt: skip
        return Report(name, values | values["measures"][measure], tables)

    def measure(
        self, metas: Sequence[MetaParams], options: SupervisedEvaluation, rate: float | None
    ) -> Curves:
        """Measure on the tasks asked for; `rate` replaces the inner optimizer by plain descent."""
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

    def _tuned_rate(
        self, metas: Sequence[MetaParams], options: SupervisedEvaluation
    ) -> tuple[float, Table]:
        """Return the step size with the best result after the last step on validation tasks."""
        others = replace(options, tasks="validation", num_tasks=min(options.num_tasks, 100))
        results = [self.measure(metas, others, rate) for rate in RATES]
        name = judged_by(results[0])
        ends = np.array([curves.mean(name)[-1] for curves in results])
        if not np.isfinite(ends).any():
            raise ValueError(f"every step size of {RATES} diverges; lower test_steps")
        rows = [[f"{rate:g}", f"{end:.4f}"] for rate, end in zip(RATES, ends, strict=True)]
        best = RATES[int(np.nanargmin(-ends if name == "accuracy" else ends))]
        return best, Table("step size, on validation tasks", ["inner lr", name], rows)

    def _protocol(self, options: SupervisedEvaluation) -> dict[str, Any]:
        """Return what was asked for: what distinguishes two evaluations of a checkpoint."""
        config: Any = self.config
        return {
            "tasks": options.tasks,
            "num_tasks": options.num_tasks,
            "num_ways": getattr(config, "num_ways", None),
            "num_shots": None if getattr(config, "variable", False) else config.num_shots,
            "num_queries": self._num_queries(options),
            "test_steps": config.test_steps,
            "seed": options.seed,
            "ensemble": options.ensemble if options.ensemble > 1 else None,
            "bn_mode": options.bn_mode,
            "start": options.start,
            "inner_lr": options.inner_lr,
            "nearest_neighbor": options.nearest_neighbor,
            "tuned": options.tune_inner_lr,
        }

    def _num_queries(self, options: SupervisedEvaluation) -> int | None:
        """Return the query images of each class, or the points; None where they vary."""
        generator = torch_generator(0, 0, "size", device=self.device)
        task = self.parts.evaluated[options.tasks](1, generator)
        if not isinstance(task, Task):
            return None
        return int(task.query[0].shape[1]) // getattr(self.config, "num_ways", 1)


def judged_by(curves: Curves) -> str:
    """Return the measure that the result is about."""
    return "accuracy" if "accuracy" in curves.values else "loss"


def _table(options: SupervisedEvaluation, curves: Curves) -> Table:
    """Return one row for each number of steps."""
    columns = ["inner steps", *(f"{n}{s}" for n in curves.values for s in ("", " ± 95 %"))]
    numbers = [
        np.stack([curves.mean(name), curves.interval(name)], -1)
        * (100 if name == "accuracy" else 1)
        for name in curves.values
    ]
    rows = [
        [step, *(f"{number:.3f}" for number in row)]
        for step, row in enumerate(np.concatenate(numbers, -1))
    ]
    return Table(f"{options.num_tasks} {options.tasks} tasks", columns, rows)
