"""Compare the cost of MAML meta-steps on images in metarl and in learn2learn.

::

    git clone https://github.com/learnables/learn2learn
    python docs/compare_learn2learn.py learn2learn
    python docs/compare_learn2learn.py learn2learn --only 84 --threads 2

Both libraries train the same network from the same weights on the same tasks, each in a process
of its own, and take their steps in turn. learn2learn runs the loop of its MAML examples: its
wrapper ``learn2learn.algorithms.MAML`` and ``backward`` after every task. metarl runs
``metarl train fewshot`` with its default settings. It prints the medians of the CPU seconds of a
step and of their ratio in every turn, and the growth of the peak memory of the process by the
steps, which includes tracing. The script fails if the meta-gradients differ in double precision.
"""

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.commands.measures.supervised import noise_experiment
from metarl.core import MetaLearner, Params, Task, tree
from metarl.core.speed import program
from metarl.util import peak_memory, print_table


class Case(NamedTuple):
    """A meta-step on 5-way 1-shot tasks.

    Attributes:
        image_size: Height and width of the images in pixels.
        channels: Number of channels of the images.
        network: Name of the network in metarl.
        num_tasks: Number of tasks in a meta-batch.
        num_queries: Number of query images per class.
        inner_steps: Number of inner steps.
    """

    image_size: int
    channels: int
    network: str
    num_tasks: int
    num_queries: int
    inner_steps: int = 1

    def __str__(self) -> str:
        steps = f"{self.inner_steps} step{'s' if self.inner_steps > 1 else ''}"
        return f"{self.image_size} px, {steps}"


OMNIGLOT = Case(28, 1, "conv4-stride", num_tasks=8, num_queries=1)
MINI = Case(84, 3, "mini-32", num_tasks=4, num_queries=15)
CASES = [
    case._replace(inner_steps=steps)
    for case in (OMNIGLOT, MINI._replace(image_size=64), MINI)
    for steps in (1, 5)
]
INNER_LR, OUTER_LR = 0.01, 1e-3
TOLERANCE = 1e-8  # of the norm of the meta-gradient, in double precision
CPU = torch.device("cpu")


class Block(nn.Module):
    """A block of the network in plain PyTorch, with the parameter names of metarl."""

    def __init__(self, weights: Params, prefix: str, *, pool: bool) -> None:
        """Build a block with the shapes of the weights whose names start with `prefix`."""
        super().__init__()
        filters, channels = weights[f"{prefix}.conv.weight"].shape[:2]
        padding, stride = (1, 1) if pool else (0, 2)
        self.conv = nn.Conv2d(channels, filters, 3, stride=stride, padding=padding)
        self.norm = nn.BatchNorm2d(filters, track_running_stats=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to images of shape (n, channels, height, width)."""
        if self.pool:
            return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        before = [1 - side % 2 for side in x.shape[-2:]]  # TensorFlow's SAME padding
        x = F.pad(x, (1 - before[1], 1, 1 - before[0], 1))
        return F.relu(self.norm(self.conv(x)))


class Network(nn.Module):
    """A convolutional classifier in plain PyTorch, with the parameter names of metarl."""

    def __init__(self, weights: Params, *, pool: bool) -> None:
        """Build the network with the given weights."""
        super().__init__()
        names = sorted({found[1] for n in weights if (found := re.match(r"body\.(.+\.\d+)\.", n))})
        self.body = nn.Module()
        self.body.blocks = nn.ModuleList(Block(weights, f"body.{n}", pool=pool) for n in names)
        self.head = nn.Linear(*reversed(weights["head.weight"].shape))
        self.pool = pool
        self.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images of shape (n, channels, height, width)."""
        for block in self.body.blocks:
            x = block(x)
        features = x.permute(0, 2, 3, 1).flatten(1) if self.pool else x.mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


def learn2learn_maml(checkout: Path) -> Any:
    """Import learn2learn's MAML class without the data sets, whose extensions must be compiled."""
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    return import_module("learn2learn.algorithms.maml").MAML


def learn2learn_step(checkout: Path, case: Case, dtype: torch.dtype) -> Callable[[], Params]:
    """Return a meta-step of learn2learn; it returns the meta-gradient by parameter name."""
    maml_class = learn2learn_maml(checkout)
    _, weights, tasks = parts_of(case, dtype)
    network = Network(weights, pool=case.network != "conv4-stride").to(dtype)
    maml = maml_class(network, lr=INNER_LR)
    optimizer = torch.optim.Adam(maml.parameters(), OUTER_LR)
    (support_x, support_y), *_ = tasks.support
    query_x, query_y = tasks.query

    def step() -> Params:
        optimizer.zero_grad()
        for task in range(case.num_tasks):
            learner = maml.clone()
            for _ in range(case.inner_steps):
                learner.adapt(F.cross_entropy(learner(support_x[task]), support_y[task]))
            F.cross_entropy(learner(query_x[task]), query_y[task]).backward()
        for parameter in maml.parameters():
            parameter.grad.mul_(1 / case.num_tasks)
        optimizer.step()
        return {name: p.grad for name, p in maml.module.named_parameters()}

    return step


def metarl_step(_: Path, case: Case, dtype: torch.dtype) -> Callable[[], Params]:
    """Return a meta-step of metarl; it returns the meta-gradient by parameter name."""
    learner, weights, tasks = parts_of(case, dtype)
    state = learner.init(weights)

    def step() -> Params:
        learner.step(state, tasks)
        return {name: p.grad for name, p in state.params.model.items()}

    return step


LIBRARIES = {"metarl": metarl_step, "learn2learn": learn2learn_step}


def parts_of(case: Case, dtype: torch.dtype) -> tuple[MetaLearner, Params, Task]:
    """Return metarl's meta-learner, the initial weights and a meta-batch of random images."""
    options = {n: v for n, v in case._asdict().items() if n not in ("channels", "image_size")}
    rates = {"inner_lr": INNER_LR, "outer_lr": OUTER_LR, "device": "cpu"}
    experiment = noise_experiment(case.image_size, case.channels, **options, **rates)
    drawn = experiment.draw(experiment.init(), 0)[0]
    weights, tasks = tree.map_leaves(lambda x: x.to(dtype), (experiment.parts.model.params, drawn))
    return experiment.learner(1), weights, tasks


def serve(pipe: Connection, library: str, checkout: Path, case: Case, threads: int) -> None:
    """Take one step for each message True, and send its CPU seconds.

    At the message False, send the peak memory of the steps in MB and the meta-gradient in double
    precision, and end.
    """
    torch.set_num_threads(threads)
    program(torch.neg, "traced")(torch.ones(1))  # imports modules for tracing
    step = LIBRARIES[library](checkout, case, torch.float32)
    before = peak_memory(CPU)
    while pipe.recv():
        began = time.process_time()
        step()
        pipe.send(time.process_time() - began)
    peak = (peak_memory(CPU) - before) / 1e6
    gradient = LIBRARIES[library](checkout, case, torch.float64)()
    pipe.send((peak, {name: slope.numpy() for name, slope in gradient.items()}))


def compare(checkout: Path, case: Case, *, threads: int, repeats: int) -> list[str]:
    """Measure one case, and return the row of the table."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for library in LIBRARIES:
        pipes[library], theirs = context.Pipe()
        arguments = (theirs, library, checkout, case, threads)
        processes.append(context.Process(target=serve, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()
    seconds: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for turn in range(repeats + 2):
        for library, pipe in pipes.items():
            pipe.send(True)
            found = pipe.recv()
            seconds[library] += [found] if turn > 1 else []  # the first turns warm up
    peaks, gradients = [], []
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        peak, gradient = pipe.recv()
        peaks.append(peak)
        gradients.append(gradient)
        process.join()
    require_equal(*gradients)
    return row(case, *seconds.values(), *peaks)


def require_equal(ours: Any, theirs: Any) -> None:
    """Check that both libraries return the same meta-gradient."""
    ours, theirs = (np.concatenate([g[n].ravel() for n in sorted(g)]) for g in (ours, theirs))
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    if not error < TOLERANCE:
        sys.exit(f"the meta-gradients differ by {error:.1e} of their norm: expected {TOLERANCE}")


def row(case: Case, ours: list[float], theirs: list[float], our: float, their: float) -> list[str]:
    """Return the medians of CPU seconds, their ratio per turn, and the peak memory in MB."""
    ratio = np.median(np.array(ours) / np.array(theirs))
    times = [f"{np.median(values):.3f}" for values in (ours, theirs)]
    return [str(case), *times, f"{ratio:.2f}", f"{our:.0f}", f"{their:.0f}", f"{our / their:.2f}"]


HEAD = ["case", "metarl s", "l2l s", "ratio", "metarl MB", "l2l MB", "ratio"]


def main() -> None:
    """Compare the libraries, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with the source of learn2learn")
    parser.add_argument("--only", default="", help="regular expression of the cases to run")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed meta-steps")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of torch")
    args = parser.parse_args()
    rows = [
        compare(args.checkout, case, threads=args.threads, repeats=args.repeats)
        for case in CASES
        if re.search(args.only, str(case))
    ]
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    title = f"CPU seconds of a meta-step and peak memory, {threads}; l2l is learn2learn"
    print_table(title, HEAD, rows)


if __name__ == "__main__":
    main()
