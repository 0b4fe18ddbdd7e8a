"""Measurements of the time of a supervised meta-step, compared with a plain PyTorch loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from metarl.commands.benchmark import Benchmark, Case
from metarl.core import Params, Task, tree
from metarl.core.speed import Mode
from metarl.data import Classes, Splits
from metarl.experiments import settings
from metarl.experiments.fewshot import ImageClassification
from metarl.experiments.regression import SinusoidRegression
from metarl.experiments.supervised_setup import Parts
from metarl.util import Figures, median


PLAIN = "plain autograd, task by task (ms)"
COMPILED = "meta-step, compiled (ms)"
MODES: dict[str, Mode] = {
    "meta-step, eager (ms)": "eager",
    "meta-step, traced (ms)": "traced",
    COMPILED: "compiled",
}


def regression(args: Benchmark) -> list[Case]:
    """Return the benchmark case for MAML on sinusoids: meta-batches of 25 tasks with 10 shots."""
    experiments = {
        name: SinusoidRegression(settings("regression", mode=mode, device=args.device))
        for name, mode in MODES.items()
    }
    title = "sinusoids: 25 tasks x 10 shots, 40x40 relu, second order"
    return [Case(title, partial(meta_step, args, experiments, calls=50))]


def fewshot(args: Benchmark) -> list[Case]:
    """Return the benchmark case for 5-way 1-shot MAML on random images of 28 × 28 pixels."""
    noise = torch.randint(0, 256, (400, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    classes = Classes(noise.to(torch.uint8), (20,) * 20, tuple(map(str, range(20))))
    experiments = {
        name: ImageClassification(settings("fewshot", mode=mode, device=args.device))
        for name, mode in MODES.items()
    }
    for experiment in experiments.values():
        experiment.splits = Splits(classes, classes, classes)
    shape = f"{experiment.config.num_tasks} tasks x 5 ways x 1 shot"
    title = f"images: {shape}, conv-4 of 64 filters, second order"
    return [Case(title, partial(meta_step, args, experiments))]


def meta_step(args: Benchmark, experiments: dict[str, Any], *, calls: int = 1) -> Figures:
    """Measure the time of a MAML meta-step in plain PyTorch and in every execution mode.

    The meta-step computes second-order meta-gradients.

    Args:
        args: Options of ``metarl benchmark``. `repeats` is the number of timed repetitions;
            with ``compiled=False``, the compiled mode is not measured.
        experiments: One experiment per execution mode, with SGD as the inner
            optimizer. The keys are the names of the results.
        calls: Number of meta-steps per timed repetition.

    Returns:
        Median times per meta-step in milliseconds and the compilation time in seconds, by name.
    """
    steps: dict[str, Callable[[], Any]] = {}
    for name, experiment in experiments.items():
        state = experiment.init()
        tasks, _ = experiment.draw(state, 0)
        steps.setdefault(PLAIN, plain_step(experiment.parts, tasks))
        steps[name] = partial(experiment.learner(1).step, state, tasks)
    first = {}
    if args.compiled:
        first["compiling, once per run (s)"] = median(steps[COMPILED], 1, warm_up=False)
    else:
        del steps[COMPILED]

    def milliseconds(step: Callable[[], Any]) -> float:
        return 1000 / calls * median(lambda: [step() for _ in range(calls)], args.repeats)

    return {name: milliseconds(step) for name, step in steps.items()} | first


def plain_step(parts: Parts, tasks: Task) -> Callable[[], None]:
    """Return a function that runs a MAML meta-step as a plain PyTorch loop over the tasks.

    Args:
        parts: The experiment's model and initial parameters.
        tasks: Meta-batch with a leading task axis.
    """
    loop = parts.model.loop
    params: Params = {n: p.clone().requires_grad_() for n, p in parts.model.params.items()}
    optimizer = torch.optim.Adam(list(params.values()), lr=1e-3)
    count = len(tree.leaves(tasks)[0])
    each = [tree.map_leaves(lambda x, i=i: x[i], tasks) for i in range(count)]

    def step() -> None:
        optimizer.zero_grad()
        for task in each:
            adapted = params
            for _ in range(loop.num_steps or 0):
                loss = loop.loss(adapted, task.support[0])
                found = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
                grads = dict(zip(adapted, found, strict=True))
                updates, _ = loop.optimizer.update({}, grads, (), 0)
                adapted = tree.add(adapted, updates)
            (loop.loss(adapted, task.query) / count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
