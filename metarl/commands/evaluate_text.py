"""Evaluate a run on few-shot tasks of text: accuracy over their fixed support samples.

``metarl evaluate runs/leopard --tasks airline,restaurant,conll --shots 4,8,16``
"""

import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from metarl.core.seeding import torch_generator
from metarl.core.types import Params
from metarl.experiments.launch import experiment_of, require_fitting
from metarl.experiments.text import Text, names, support_of
from metarl.runs.config import require
from metarl.runs.folder import Run, command, versions
from metarl.runs.loading import Loaded, load
from metarl.text.encoders import load_pretrained
from metarl.text.evaluation import accuracies, chosen_rows, encoded
from metarl.text.files import NUM_SAMPLES, TextTask, find_tasks, read_tasks
from metarl.text.tasks import Sentences, tokenize
from metarl.util.console import print_table, warn
from metarl.util.output import require_writable
from metarl.util.ranges import at_least
from metarl.util.statistics import interval95


@dataclass(frozen=True)
class EvaluateText:
    """Adapt to each fixed support sample of test tasks, and report mean ± standard deviation.

    The samples of LEOPARD's tasks are those of its authors; of JSON lines of your own ten are
    drawn. What is left at None is as in the run.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    tasks: str = ""
    """Test tasks, separated by commas; by default those that were held out and can be tested."""
    shots: str = "4,8,16"
    """Support sentences of each class, one or more numbers separated by commas."""
    samples: int = NUM_SAMPLES
    """Support samples of each task."""
    queries: int | None = None
    """Evaluation sentences of each task, drawn; by default all."""
    test_steps: Annotated[int | None, tyro.conf.arg(aliases=["--inner-steps"])] = None
    """Inner steps."""
    inner_lr: float | None = None
    """Step size of the inner steps, where it is not learned."""
    seed: int = 1
    """Seed of what is drawn: minibatches and evaluation sentences."""
    data_root: Path | None = None
    """Folder of the test tasks, where it is not the run's."""
    encoder: str | None = None
    """Where the run's encoder is now."""
    checkpoint: int | None = None
    """Iteration of the checkpoint, by default the last; 0 is the encoder as it came."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the parameters live."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        require(self, at_least(1), "samples", "queries")
        require(self, at_least(0), "test_steps", "inner_lr")
        if not names(self.shots) or not all(n.isdecimal() and int(n) for n in names(self.shots)):
            raise ValueError(f"--shots must be numbers such as 4,8,16, got {self.shots!r}")


def main(args: EvaluateText) -> None:
    """Evaluate, print the table and write it to the run folder."""
    began = time.perf_counter()
    module, kind = experiment_of(Run.open(args.run))
    loaded: Loaded[Any] = load(kind, args.run, iteration=args.checkpoint, device=args.device)
    require_writable(loaded.run.evaluation_path("new"))
    config = overridden(loaded.config, args)
    tasks = chosen_tasks(config, args)
    shots = [int(number) for number in names(args.shots)]
    for task in tasks:  # before the minutes of the first
        for number in shots:
            [task.sample(number, index) for index in range(args.samples)]
    parts: Any = module.build(config, sources=tasks, ways=ways_of(loaded.params.model))
    require_fitting(parts, loaded.params)
    tokenizer = load_pretrained(config.encoder).tokenizer
    results: dict[str, dict[int, Any]] = {}

    def prepare(support: Any, index: int) -> Any:
        generator = torch_generator(args.seed, index, "minibatches", device=parts.device)
        return support_of(config, support, config.test_steps or 0, generator)

    def tokenized(task: TextTask, rows: Any) -> Sentences:
        return tokenize(tokenizer, rows, task, max_length=config.max_length, device=parts.device)

    cells = len(tasks) * len(shots)
    for task in tasks:
        rows = chosen_rows(len(task.evaluation), args.queries, args.seed).tolist()
        judged = tokenized(task, [task.evaluation[row] for row in rows])
        evaluation = encoded(parts.model, loaded.params, judged)
        results[task.name] = {}
        for number in shots:
            samples = [tokenized(task, task.sample(number, i)) for i in range(args.samples)]
            results[task.name][number] = found = accuracies(
                parts.model, parts.test_loop, loaded.params, samples, evaluation, prepare
            )
            done = sum(map(len, results.values()))
            # Many steps take minutes a line.
            print(f"{done}/{cells}  {task.name}, {number} shots: {_cell(found)} %", flush=True)
    show(f"{args.run}, iteration {loaded.iteration} ({config.method})", args, results)
    seconds = time.perf_counter() - began
    values = report(args, config, loaded.iteration, results, seconds)
    path = loaded.run.write_evaluation(file_name(args, values), values)
    print(f"written to {path} after {seconds:.0f} s")


def overridden(config: Text, args: EvaluateText) -> Text:
    """Put what was asked for in place of the run's settings."""
    asked = {
        name: value
        for name in ("data_root", "encoder", "device", "test_steps", "inner_lr")
        if (value := getattr(args, name)) is not None
    }
    if args.inner_lr is not None and config.inner == "lslr":
        raise ValueError(f"{args.run} learned its rates (--inner lslr); leave out --inner-lr")
    return replace(config, **asked)


def ways_of(params: Params) -> int:
    """Return the classes of the head that was trained; 0 if each task has one of its own."""
    return len(params["head.bias"]) if "head.bias" in params else 0


def chosen_tasks(config: Text, args: EvaluateText) -> list[TextTask]:
    """Read the test tasks, and make sure that they can be judged by."""
    asked = names(args.tasks)
    known = find_tasks(config.data_root)
    kept = [name for name in names(config.held_out) if name in known]
    tasks = read_tasks(config.data_root, asked or kept)
    if not asked:
        tasks = [task for task in tasks if task.evaluation]
    if not tasks:
        raise ValueError(
            f"no task that was held out has evaluation rows; choose --tasks of {', '.join(known)}"
        )
    for task in tasks:
        task.require_evaluation()
        if task.name in names(config.tasks):
            warn(f"{args.run} was trained on {task.name}: this is no test of new tasks")
    return tasks


def show(title: str, args: EvaluateText, results: dict[str, dict[int, torch.Tensor]]) -> None:
    """Print one row for each task."""
    columns = ["task", *(f"{number}-shot" for number in next(iter(results.values())))]
    rows = [[task, *(_cell(ends) for ends in found.values())] for task, found in results.items()]
    title += f": accuracy in %, mean ± standard deviation over {args.samples} support samples"
    print_table(title, columns, rows)


def report(
    args: EvaluateText,
    config: Text,
    iteration: int,
    results: dict[str, dict[int, torch.Tensor]],
    seconds: float,
) -> dict[str, Any]:
    """Describe an evaluation so that it can be repeated."""
    cells = [x.numpy() for found in results.values() for x in found.values()]
    ends = np.mean(cells, 0)  # of every sample, over tasks and numbers of shots
    return {
        "command": command(),
        "iteration": iteration,
        "method": config.method,
        "measure": "accuracy",
        "tasks": ", ".join(results),
        "num_tasks": len(results),
        "num_shots": args.shots,
        "samples": args.samples,
        "num_queries": args.queries,
        "test_steps": config.test_steps,
        "inner_lr": config.inner_lr,
        "seed": args.seed,
        "accuracies": {  # by task, by shots: of every sample, before and after the inner steps
            task: {str(number): x.tolist() for number, x in found.items()}
            for task, found in results.items()
        },
        "mean": ends.mean(0).tolist(),
        "interval95": interval95(ends).tolist(),
        "seconds": round(seconds, 1),
        "versions": versions(),
    }


def file_name(args: EvaluateText, values: dict[str, Any]) -> str:
    """Name an evaluation by what tells two of them apart."""
    tasks = values["tasks"].replace(", ", "_")
    if len(tasks) > 80:  # file systems allow a name of 255 letters
        tasks = f"{values['num_tasks']}-tasks-{zlib.crc32(tasks.encode()):08x}"
    settings = {
        "shots": args.shots,
        "samples": args.samples,
        "queries": args.queries or "all",
        "steps": values["test_steps"],
        "seed": args.seed,
        **({} if args.inner_lr is None else {"lr": args.inner_lr}),
    }
    words = [f"iteration-{values['iteration']}", tasks, *(f"{k}-{v}" for k, v in settings.items())]
    return "_".join(words)


def _cell(ends: torch.Tensor) -> str:
    last = 100 * ends[:, -1]
    return f"{last.mean():.2f} ± {last.std() if len(last) > 1 else 0.0:.2f}"
