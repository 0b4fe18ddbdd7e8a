"""Measure sampling and the meta-update beside what the machine can do: ``metarl benchmark``."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.commands.measures.rl import collect, sampling, update_seconds
from metarl.commands.measures.scaling import measure_scaling
from metarl.commands.measures.supervised import SUPERVISED
from metarl.commands.measures.text import measure_text
from metarl.experiments.meta_rl import Parts, RLConfig, build, config_class
from metarl.runs.folder import versions
from metarl.util.console import print_table
from metarl.util.device import resolve_device
from metarl.util.measuring import Figures, machine, median
from metarl.util.output import require_writable


COLLECTING = "collecting a meta-batch (s)"

# The shapes that papers and peers report: 2D navigation, and half-cheetahs at the papers' scale.
CHEETAH: dict[str, Any] = {"num_tasks": 40, "hidden": (100, 100), "inner_lr": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "metarl/Navigation2D-v0": {"num_tasks": 20, "hidden": (64, 64), "activation": "tanh"},
    "metarl/RllabHalfCheetahDir-v0": CHEETAH,
    "metarl/HalfCheetahDir-v1": CHEETAH,
}


@dataclass(frozen=True)
class Benchmark:
    """Measure how fast this machine samples, updates and takes supervised meta-steps.

    Figures are medians; they stand beside the matrix product, the memory copy and the raw physics
    measured in the same run, and supervised meta-steps beside a plain loop over tasks, since all
    vary with the machine and its load.
    """

    what: Annotated[
        Literal["all", "sampling", "update", "regression", "fewshot", "text", "scaling"],
        tyro.conf.Positional,
    ] = "all"
    """What to measure; all leaves out text, which needs the encoder of `metarl train text`, and
    scaling, which starts --processes with torchrun."""
    repeats: int = 5
    """Measurements of each figure, after one to warm up."""
    env: tuple[str, ...] = tuple(CASES)
    """Environments to measure."""
    num_tasks: int | None = None
    """Tasks of a meta-batch; by default 20 in navigation and 40 elsewhere."""
    episodes_per_task: int = 20
    """Episodes of each task."""
    hidden: tuple[int, ...] = ()
    """Widths of hidden layers; by default 64 64 in navigation and 100 100 elsewhere."""
    fisher_fraction: tuple[float, ...] = (1.0, 0.25)
    """Parts of the episodes that the update's Fisher is computed on."""
    compiled: bool = True
    """Also compile the supervised meta-steps, which takes a minute or more."""
    processes: int = 2
    """The most processes of scaling."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the parameters live."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.repeats < 1:
            raise ValueError(f"--repeats must be at least 1, got {self.repeats}")


ASKED_FOR: dict[str, Callable[[Benchmark], tuple[str, Figures]]] = {
    "text": lambda args: measure_text(args.repeats, device=args.device),
    "scaling": lambda args: measure_scaling(args.repeats, processes=args.processes),
}
"""What `all` leaves out."""


def main(args: Benchmark) -> None:
    """Measure and print."""
    if args.out is not None:
        require_writable(args.out)
    envs = args.env if args.what in ("all", "sampling", "update") else ()
    configs = [_config(args, env) for env in envs]
    built = [build(config) for config in configs]  # an impossible setting costs no time
    report = {"this machine": machine(resolve_device(args.device), args.repeats)}
    _show("this machine", report)
    for config, parts in zip(configs, built, strict=True):
        title = _title(config, parts)
        report[title] = sampling(parts, args.repeats) if args.what != "update" else {}
        if args.what != "sampling":
            report[title] |= _updates(args, config, parts)
        _show(title, report)
    for name, measure in SUPERVISED.items():
        if args.what in ("all", name):
            title, figures = measure(args.repeats, device=args.device, compiled=args.compiled)
            report[title] = figures
            _show(title, report)
    if args.what in ASKED_FOR:
        title, figures = ASKED_FOR[args.what](args)
        report[title] = figures
        _show(title, report)
    if args.out is not None:
        args.out.write_text(json.dumps({"figures": report, "versions": versions()}, indent=2))


def _updates(args: Benchmark, config: RLConfig, parts: Parts) -> Figures:
    figures = {COLLECTING: median(lambda: collect(parts), args.repeats)}
    for fraction in args.fisher_fraction:
        again = build(replace(config, fisher_fraction=fraction))
        where = "" if fraction == 1 else f", Fisher on {fraction:.0%} of the episodes"
        seconds, tracing = update_seconds(again, args.repeats)
        figures[f"trust-region update{where} (s)"] = seconds
        figures[f"one iteration{where} (s)"] = figures[COLLECTING] + seconds
        figures[f"tracing, once per run{where} (s)"] = tracing
    return figures


def _config(args: Benchmark, env: str) -> RLConfig:
    given = {"num_tasks": args.num_tasks, "hidden": args.hidden}
    chosen = CASES.get(env, CHEETAH) | {name: value for name, value in given.items() if value}
    return config_class("maml-trpo")(
        env=env,
        episodes_per_task=args.episodes_per_task,
        device=args.device,
        output_gain=1.0,
        **chosen,
    )


def _title(config: RLConfig, parts: Parts) -> str:
    shape = f"{config.num_tasks} tasks x {config.episodes_per_task} episodes"
    network = f"{'x'.join(map(str, config.hidden))} {config.activation}"
    return f"{config.env}: {shape} x {parts.sampler.horizon} steps, {network}"


def _show(title: str, report: dict[str, Figures]) -> None:
    rows = [_row(*item) for item in report[title].items()]
    print_table(title, ["figure", "median", "unit"], rows)


def _row(label: str, value: float) -> list[str]:
    name, _, unit = label.rpartition(" (")
    return [name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}", unit.rstrip(")")]
