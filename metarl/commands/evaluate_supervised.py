"""Evaluate a supervised run: loss and accuracy after 0, 1, ..., K steps on test tasks.

``metarl evaluate runs/omni``
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from metarl.core.inner import sgd
from metarl.core.seeding import torch_generator
from metarl.core.types import MetaParams, Task
from metarl.experiments.launch import experiment_of, require_fitting
from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.supervised_setup import Parts, started
from metarl.runs.config import flag, require
from metarl.runs.folder import Run, command, versions
from metarl.runs.loading import Loaded, load
from metarl.supervised.evaluate import Curves, adaptation_curves, neighbor_curves
from metarl.supervised.methods import Start
from metarl.util.console import print_table
from metarl.util.output import require_writable
from metarl.util.ranges import at_least


RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class EvaluateSupervised:
    """Adapt to test tasks as in the papers, and report every step.

    Tasks come from classes, or sinusoids, that training has not met. What is left at None is as in
    the run.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    test_steps: Annotated[int | None, tyro.conf.arg(aliases=["--inner-steps"])] = None
    """Inner steps."""
    num_tasks: int = 600
    """Tasks."""
    seed: int = 1
    """Seed of the tasks."""
    tasks: Literal["test", "validation", "train"] = "test"
    """Where the tasks come from."""
    num_ways: Annotated[int | None, tyro.conf.arg(aliases=["--ways"])] = None
    """Classes of a task; a learned head takes only as many as it was trained with."""
    num_shots: Annotated[int | None, tyro.conf.arg(aliases=["--shots"])] = None
    """Support examples of each class, or points."""
    test_queries: Annotated[int | None, tyro.conf.arg(aliases=["--queries"])] = None
    """Query images of each class; of one image, as in MAML's own evaluation, a transductive
    method learns that classes are equally frequent."""
    bn_mode: Literal["query", "support"] | None = None
    """Statistics that normalize the query: its own (transductive) or the support set's."""
    start: Start | None = None
    """Head to start from: what a pretrained run is fine-tuned with."""
    nearest_neighbor: bool = False
    """Classify by the nearest support image in feature space instead of adapting."""
    inner_lr: float | None = None
    """Plain gradient descent with this step size instead of the run's inner optimizer."""
    tune_inner_lr: bool = False
    """Choose that step size first, on 100 validation tasks: how a pretrained run or, with
    --checkpoint 0, a random network is fine-tuned."""
    ensemble: int = 1
    """Average the logits of so many checkpoints, the best on validation tasks (MAML++: 5)."""
    data_root: Path | None = None
    """Where the images are now."""
    checkpoint: int | None = None
    """Iteration of the checkpoint, by default the last; 0 is the initialization."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the parameters live."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        require(self, at_least(1), "num_tasks", "num_shots", "test_queries", "ensemble")
        require(self, at_least(0), "test_steps", "inner_lr")
        if self.tune_inner_lr and self.inner_lr is not None:
            raise ValueError("--tune-inner-lr chooses the step size; leave out --inner-lr")
        if self.ensemble > 1 and self.checkpoint is not None:
            raise ValueError("--ensemble chooses the checkpoints; leave out --checkpoint")
        others = ("test_steps", "inner_lr", "tune_inner_lr", "start")
        if self.nearest_neighbor and (self.ensemble > 1 or any(getattr(self, n) for n in others)):
            listed = ", ".join(map(flag, others))
            raise ValueError(f"--nearest-neighbor does not adapt; leave out --ensemble, {listed}")


def main(args: EvaluateSupervised) -> None:
    """Evaluate, print the table and write it to the run folder."""
    began = time.perf_counter()
    module, kind = experiment_of(Run.open(args.run))
    loaded: Loaded[Any] = load(kind, args.run, iteration=args.checkpoint, device=args.device)
    require_writable(loaded.run.evaluation_path("new"))
    config = overridden(loaded.config, args)
    parts: Parts = module.build(config)
    require_fitting(parts, loaded.params)
    if args.start is not None and args.start != config.start:
        loop = started(parts.test_loop, args.start, parts.model)
        parts = parts._replace(test_loop=loop)
    chosen = best_checkpoints(loaded, args)
    metas = [loaded.params] if args.ensemble == 1 else [
        load(kind, args.run, iteration=iteration, device=args.device).params for iteration in chosen
    ]  # fmt: skip
    rate = tuned_rate(args, config, parts, metas) if args.tune_inner_lr else args.inner_lr
    curves = evaluate(args, config, parts, metas, rate=rate)
    show(f"{args.run}, iteration {', '.join(map(str, chosen))}", args, curves)
    settings = protocol(args, config, parts)
    name = "_".join(
        f"{key}-{value}"
        for key, value in settings.items()
        if value is not None and value is not False  # 0 is a seed, and a number of steps
    )
    seconds = time.perf_counter() - began
    values = settings | report(config, chosen, curves, rate, seconds)
    path = loaded.run.write_evaluation(f"iteration-{loaded.iteration}_{name}", values)
    print(f"written to {path} after {seconds:.0f} s")


def overridden(config: SupervisedConfig, args: EvaluateSupervised) -> SupervisedConfig:
    """Put what was asked for in place of the run's settings."""
    names = {"test_steps", "num_ways", "num_shots", "test_queries", "bn_mode"}
    names |= {"data_root", "device"}
    asked = {name: value for name in names if (value := getattr(args, name)) is not None}
    known = {field.name for field in fields(config)}
    if unknown := sorted(set(asked) - known):
        raise ValueError(f"{args.run} is a run without {', '.join(map(flag, unknown))}")
    ways = getattr(config, "num_ways", None)
    if (args.nearest_neighbor or args.start) and ways is None:
        asked_for = "--start" if args.start else "--nearest-neighbor"
        raise ValueError(f"{asked_for} is of classes, and {args.run} has none")
    if args.start == "learned" != config.start:
        raise ValueError(f"{args.run} learned no head; leave out --start")
    if args.nearest_neighbor:
        asked["test_steps"] = 0
    head_is_learned = (args.start or config.start) == "learned" and config.method != "pretrained"
    if args.num_ways not in (None, ways) and head_is_learned:
        raise ValueError(
            f"{args.run} learned a head for {ways} classes; use --start zero or prototypes for "
            f"{args.num_ways}"
        )
    steps = config.test_steps if args.test_steps is None else args.test_steps
    if args.tune_inner_lr and not steps:
        raise ValueError("--tune-inner-lr needs --test-steps of at least 1")
    return replace(config, **asked)


def best_checkpoints(loaded: Loaded[Any], args: EvaluateSupervised) -> list[int]:
    """Return the checkpoints to use: the one loaded, or the best of the training's validation."""
    if args.ensemble == 1:
        return [loaded.iteration]
    scores = {
        entry["iteration"]: score
        for entry in loaded.run.metrics()
        if "validation/loss" in entry
        and not math.isnan(score := entry.get("validation/accuracy", -entry["validation/loss"]))
    }
    saved = [iteration for iteration in loaded.run.checkpoints() if iteration in scores]
    if len(saved) < args.ensemble:
        raise ValueError(
            f"--ensemble {args.ensemble} needs as many checkpoints with a validation, "
            f"{args.run} has {len(saved)}"
        )
    return sorted(saved, key=lambda iteration: -scores[iteration])[: args.ensemble]


def tuned_rate(
    args: EvaluateSupervised, config: SupervisedConfig, parts: Parts, metas: Sequence[MetaParams]
) -> float:
    """Return the step size with the best result after the last step on validation tasks."""
    others = replace(args, tasks="validation", num_tasks=min(args.num_tasks, 100))
    results = [evaluate(others, config, parts, metas, rate=rate) for rate in RATES]
    name = judged_by(results[0])
    ends = np.array([curves.mean(name)[-1] for curves in results])
    if not np.isfinite(ends).any():
        raise ValueError(f"every step size of {RATES} diverges; lower --test-steps")
    rows = [[f"{rate:g}", f"{end:.4f}"] for rate, end in zip(RATES, ends, strict=True)]
    print_table("step size, on validation tasks", ["inner lr", name], rows)
    return RATES[int(np.nanargmin(-ends if name == "accuracy" else ends))]


def judged_by(curves: Curves) -> str:
    """Return the measure that the result is about."""
    return "accuracy" if "accuracy" in curves.values else "loss"


def evaluate(
    args: EvaluateSupervised,
    config: SupervisedConfig,
    parts: Parts,
    metas: Sequence[MetaParams],
    *,
    rate: float | None,
) -> Curves:
    """Measure on the tasks asked for; `rate` replaces the inner optimizer by gradient descent."""
    loop = parts.test_loop if rate is None else replace(parts.test_loop, optimizer=sgd(rate))
    measure = neighbor_curves if args.nearest_neighbor else adaptation_curves
    return measure(
        parts.model,
        loop,
        metas,
        parts.evaluated[args.tasks],
        num_tasks=args.num_tasks,
        generator=torch_generator(args.seed, 0, args.tasks, device=parts.device),
        chunk_size=parts.chunk_size,
    )


def show(title: str, args: EvaluateSupervised, curves: Curves) -> None:
    """Print one row for each number of steps."""
    columns = ["inner steps", *(f"{n}{s}" for n in curves.values for s in ("", " ± 95 %"))]
    numbers = [
        np.stack([curves.mean(name), curves.interval(name)], -1)
        * (100 if name == "accuracy" else 1)
        for name in curves.values
    ]
    table = np.concatenate(numbers, -1)
    rows = [[step, *(f"{number:.3f}" for number in row)] for step, row in enumerate(table)]
    print_table(f"{title}: {args.num_tasks} {args.tasks} tasks", columns, rows)


def protocol(args: EvaluateSupervised, config: Any, parts: Parts) -> dict[str, Any]:
    """Return what was asked for: what tells two evaluations of a checkpoint apart."""
    return {
        "tasks": args.tasks,
        "num_tasks": args.num_tasks,
        "num_ways": getattr(config, "num_ways", None),
        "num_shots": None if getattr(config, "variable", False) else config.num_shots,
        "num_queries": num_queries(args, config, parts),
        "test_steps": config.test_steps,
        "seed": args.seed,
        "ensemble": args.ensemble if args.ensemble > 1 else None,
        "bn_mode": args.bn_mode,
        "start": args.start,
        "inner_lr": args.inner_lr,
        "nearest_neighbor": args.nearest_neighbor,
        "tuned": args.tune_inner_lr,
    }


def num_queries(args: EvaluateSupervised, config: Any, parts: Parts) -> int | None:
    """Return the query images of each class, or the points, of a task; None where they vary."""
    task = parts.evaluated[args.tasks](1, torch_generator(0, 0, "size", device=parts.device))
    if not isinstance(task, Task):
        return None
    return int(task.query[0].shape[1]) // getattr(config, "num_ways", 1)


def report(
    config: SupervisedConfig,
    chosen: list[int],
    curves: Curves,
    rate: float | None,
    seconds: float,
) -> dict[str, Any]:
    """Describe an evaluation so that it can be repeated and plotted."""
    measure = judged_by(curves)
    return {
        "command": command(),
        "iteration": max(chosen),
        "checkpoints": chosen,
        "method": config.method,
        "inner_lr": config.inner_lr if rate is None else rate,
        "transductive": getattr(config, "bn_mode", None) == "query",
        "measure": measure,
        "mean": curves.mean(measure).tolist(),
        "interval95": curves.interval(measure).tolist(),
        "measures": {
            name: {"mean": curves.mean(name).tolist(), "interval95": curves.interval(name).tolist()}
            for name in curves.values
        },
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
