"""Measurements of the time of a supervised meta-step, compared with a plain PyTorch loop."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from metarl.commands.benchmark import Benchmark, Case
from metarl.core import Params, Task, backprop, meta_gradient, query_loss, tree
from metarl.core.speed import Mode, program
from metarl.data import Classes, Splits
from metarl.experiments import settings
from metarl.experiments.fewshot import ImageClassification
from metarl.experiments.images.tasks import sizes
from metarl.experiments.regression import SinusoidRegression
from metarl.experiments.supervised_setup import Parts
from metarl.util import Figures, matrix_product, median, peak_memory


PLAIN = "plain autograd, task by task (ms)"
TRACED, COMPILED = "meta-step, traced (ms)", "meta-step, compiled (ms)"
MODES: dict[str, Mode] = {"meta-step, eager (ms)": "eager", TRACED: "traced", COMPILED: "compiled"}
PHOTOGRAPHS: dict[str, Any] = {
    "channels": 3, "network": "mini-32", "num_tasks": 4, "num_queries": 15, "inner_lr": 0.01,
}  # fmt: skip
IMAGES: dict[int, dict[str, Any]] = {28: {"channels": 1}, 64: PHOTOGRAPHS, 84: PHOTOGRAPHS}
"""Settings of the measured meta-step for each image size in pixels."""


def regression(args: Benchmark) -> list[Case]:
    """Return the benchmark case for MAML on sinusoids: meta-batches of 25 tasks with 10 shots."""
    experiments = {
        name: SinusoidRegression(settings("regression", mode=mode, device=args.device))
        for name, mode in MODES.items()
    }
    title = "sinusoids: 25 tasks x 10 shots, 40x40 relu, second order"
    return [Case(title, partial(meta_step, args, experiments, calls=50))]


def fewshot(args: Benchmark) -> list[Case]:
    """Return one benchmark case of 5-way 1-shot MAML on random images for each image size."""
    return [_images(args, size, **options) for size, options in IMAGES.items()]


def _images(args: Benchmark, size: int, **options: Any) -> Case:
    """Return the case of one image size; compilation is only measured for the smallest images."""
    experiments = {
        name: noise_experiment(size, mode=mode, device=args.device, **options)
        for name, mode in MODES.items()
        if mode != "compiled" or size == min(IMAGES)
    }
    config = experiments[TRACED].config
    shape = f"{config.num_tasks} tasks x 5 ways x (1 shot + {sizes(config)[1]} queries)"
    title = f"images of {size} pixels: {shape}, {config.network}, second order"

    def measure() -> Figures:
        device = experiments[TRACED].device
        limit = matrix_product(device, args.repeats)
        times = meta_step(args, experiments)
        work = matrix_products(experiments[TRACED])
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            memory = process.submit(step_memory, size, device=device.type, **options).result()
        return times | {
            "matrix products of a meta-step (GFLOP)": work,
            "traced / limit by matrix products (%)": 100e3 * work / times[TRACED] / limit,
            "peak memory of a meta-step, traced (MB)": memory,
        }

    return Case(title, measure)


def matrix_products(experiment: ImageClassification) -> float:
    """Return the GFLOP of the matrix products and convolutions in a meta-step."""
    state = experiment.init()
    tasks = experiment.draw(state, 0)[0]
    task = tree.map_leaves(lambda x: x[:1], tasks)
    loop, outer = experiment.parts.model.loop, query_loss(experiment.parts.model.loop.loss)
    with FlopCounterMode(display=False) as counter:  # counts only this thread
        meta_gradient(backprop(loop, outer), state.params, task)
    return float(counter.get_total_flops()) * len(tree.leaves(tasks)[0]) / 1e9


def step_memory(image_size: int, **options: Any) -> float:
    """Return the peak memory of the first meta-steps in a new process, without imports and data.

    Args:
        image_size: Height and width of the images in pixels.
        options: Further arguments of :func:`noise_experiment`.

    Returns:
        The growth of the peak memory in MB, including tracing.
    """
    experiment = noise_experiment(image_size, **options)
    learner, state = experiment.learner(1), experiment.init()
    tasks = experiment.draw(state, 0)[0]
    program(torch.neg, "traced")(torch.ones(1))  # imports modules for tracing
    before = peak_memory(experiment.device)
    for _ in range(2):
        learner.step(state, tasks)
    return (peak_memory(experiment.device) - before) / 1e6


def noise_experiment(image_size: int, channels: int, **options: Any) -> ImageClassification:
    """Return an experiment with 20 classes of 20 random images each.

    Args:
        image_size: Height and width of the images in pixels.
        channels: Number of channels of the images.
        options: Settings of ``metarl train fewshot``.
    """
    shape, generator = (400, channels, image_size, image_size), torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    classes = Classes(noise, (20,) * 20, tuple(map(str, range(20))))
    experiment = ImageClassification(settings("fewshot", image_size=image_size, **options))
    experiment.splits = Splits(classes, classes, classes)
    return experiment


def meta_step(args: Benchmark, experiments: dict[str, Any], *, calls: int = 1) -> Figures:
    """Measure the time of a MAML meta-step in plain PyTorch and in every execution mode.

    The meta-step computes second-order meta-gradients.

    Args:
        args: Options of ``metarl benchmark``. `repeats` is the number of timed repetitions;
            with ``compiled=False``, the compiled mode is not measured.
        experiments: One experiment per measured execution mode, with SGD as the inner
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
    if args.compiled and COMPILED in steps:
        first["compiling, once per run (s)"] = median(steps[COMPILED], 1, warm_up=False)
    else:
        steps.pop(COMPILED, None)

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
