"""Measure sampling and the meta-update beside what the machine can do: ``metarl benchmark``."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from metarl.console import print_table
from metarl.core import tree
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.experiments.maml_trpo import MAMLTRPO, Parts, build
from metarl.tracking import versions


Row = list[Any]


@dataclass(frozen=True)
class Benchmark:
    """Measure how fast this machine samples and updates, and how fast it could.

    Figures are medians; every one stands beside the matrix product and the memory copy measured in
    the same run, since both vary with the machine and its load.
    """

    what: Annotated[Literal["all", "sampling", "update"], tyro.conf.Positional] = "all"
    """What to measure."""
    repeats: int = 7
    """Measurements of each figure."""
    env: str = "metarl/Navigation2D-v0"
    """Environment."""
    num_tasks: int = 20
    """Tasks of a meta-batch."""
    episodes_per_task: int = 20
    """Episodes of each task."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""
    activation: Literal["relu", "tanh"] = "tanh"
    """Nonlinearity of the policy."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy lives."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.repeats < 1:
            raise ValueError(f"--repeats must be at least 1, got {self.repeats}")


def main(args: Benchmark) -> None:
    """Measure and print."""
    config = MAMLTRPO(
        out=Path(),
        env=args.env,
        num_tasks=args.num_tasks,
        episodes_per_task=args.episodes_per_task,
        hidden=args.hidden,
        activation=args.activation,
        device=args.device,
    )
    parts = build(config)
    figures = machine(parts.sampler.device, args.repeats)
    if args.what in ("all", "sampling"):
        figures |= sampling(parts, args.repeats)
    if args.what in ("all", "update"):
        figures |= update(parts, args.repeats)
    shape = f"{args.num_tasks} tasks x {args.episodes_per_task} episodes"
    network = f"{'x'.join(map(str, args.hidden))} {args.activation}"
    title = f"{args.env}, {shape} x {parts.sampler.horizon} steps, {network}, one inner step"
    print_table(title, ["figure", "median", "unit"], [_row(*item) for item in figures.items()])
    if args.out is not None:
        args.out.write_text(json.dumps({"figures": figures, "versions": versions()}, indent=2))


def machine(device: torch.device, repeats: int) -> dict[str, float]:
    """Measure the machine itself: its matrix product and its memory."""
    a = torch.randn(2048, 2048, device=device)
    source = torch.randn(32 * 2**20, device=device)  # 128 MiB: more than any cache
    target = torch.empty_like(source)
    return {
        "matrix product (GFLOP/s)": 2 * 2048**3 / 1e9 / median(lambda: a @ a, repeats),
        "memory copy (GB/s)": 2
        * 4
        * source.numel()
        / 1e9
        / median(lambda: target.copy_(source), repeats),
        "threads (count)": float(torch.get_num_threads()),
    }


def sampling(parts: Parts, repeats: int) -> dict[str, float]:
    """Measure closed-loop rollouts, and the environment alone with actions at hand."""
    sampler = parts.sampler
    params = tree.expand(parts.loop.init(parts.params).model, sampler.num_tasks)
    # Each task has parameters of its own, as after adaptation.
    params = {name: p.contiguous().to(sampler.device) for name, p in params.items()}
    tasks = sampler.sample_tasks(numpy_generator(0, 0, "benchmark"))
    generator = torch_generator(0, 0, "benchmark", device=sampler.device)
    steps = sampler.env.num_envs * sampler.horizon
    shape = (sampler.env.num_envs, *sampler.env.single_action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def environment_alone() -> None:
        sampler.env.reset(seed=[0] * sampler.env.num_envs)
        for _ in range(sampler.horizon):
            sampler.env.step(actions)

    alone = median(environment_alone, repeats)
    closed = median(lambda: sampler.rollout(parts.policy, params, tasks, generator), repeats)
    return {
        "environment alone (steps/s)": steps / alone,
        "closed-loop sampling (steps/s)": steps / closed,
    }


def update(parts: Parts, repeats: int) -> dict[str, float]:
    """Measure whole MAML-TRPO iterations; the first, which traces the update, stands apart."""
    sampler, learner = parts.sampler, parts.learner
    state = learner.init(parts.params, device=sampler.device)
    seconds: dict[str, list[float]] = {"sampling": [], "update": [], "iteration": []}
    for iteration in range(repeats + 1):
        began = time.perf_counter()
        tasks = sampler.sample_tasks(numpy_generator(0, iteration, "tasks"))
        generator = torch_generator(0, iteration, "rollouts", device=sampler.device)
        batch, _ = sampler.collect(
            parts.policy, parts.loop, state.params, tasks, generator, parts.process
        )
        sampled = time.perf_counter()
        state, metrics = learner.step(state, batch)
        metrics["trpo/kl"].item()  # waits for an accelerator
        done = time.perf_counter()
        for name, value in zip(
            seconds, (sampled - began, done - sampled, done - began), strict=True
        ):
            seconds[name].append(value)
    medians = {f"{name} (s)": float(np.median(times[1:])) for name, times in seconds.items()}
    return {
        "sampling, adaptation, baselines (s)": medians["sampling (s)"],
        "trust-region update (s)": medians["update (s)"],
        "one iteration (s)": medians["iteration (s)"],
        "tracing, once per run (s)": seconds["iteration"][0] - medians["iteration (s)"],
    }


def median(function: Callable[[], Any], repeats: int) -> float:
    """Return the median wall time of a call in seconds, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _row(label: str, value: float) -> Row:
    name, _, unit = label.rpartition(" (")
    return [name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}", unit.rstrip(")")]


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
