"""``metarl benchmark``: the speed of sampling and of updates, compared with that of the machine."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from metarl.runs import unset, versions
from metarl.util import (
    Figures,
    Ranged,
    at_least,
    machine,
    print_table,
    replacing,
    require_writable,
    resolve_device,
)


PARTS = {
    "sampling": "rl",
    "update": "rl",
    "regression": "supervised",
    "fewshot": "supervised",
    "text": "text",
    "scaling": "scaling",
}
"""Measurements, with the module of :mod:`metarl.commands.measures` that has a function of this
name.

The function returns the cases to measure for the settings of the command.
"""
ALL = ("sampling", "update", "regression", "fewshot")


@dataclass(frozen=True)
class Benchmark(Ranged):
    """Measure the speed of sampling, of meta-RL updates and of supervised meta-steps.

    Results are medians. The speed of a matrix product, of a memory copy, of the raw physics and of
    a plain loop over tasks is measured in the same run, because all results depend on the machine
    and its load.
    """

    what: Annotated[
        Literal["all", "sampling", "update", "regression", "fewshot", "text", "scaling"],
        tyro.conf.Positional,
    ] = "all"
    """Measurement. all excludes text, which needs the encoder of `metarl train text`, and scaling,
    which starts --processes with torchrun."""
    repeats: Annotated[int, at_least(1)] = 5
    """Number of measurements of each result, after one warm-up."""
    env: tuple[str, ...] = (
        "metarl/Navigation2D-v0", "metarl/RllabHalfCheetahDir-v0", "metarl/HalfCheetahDir-v1",
    )  # fmt: skip
    """Environments of the meta-RL measurements."""
    num_tasks: Annotated[int | None, unset("20 for navigation, 40 for others")] = None
    """Number of tasks in a meta-batch."""
    episodes_per_task: int = 20
    """Number of episodes of each task."""
    hidden: tuple[int, ...] = ()
    """Widths of hidden layers; by default 64 64 in navigation and 100 100 elsewhere."""
    fisher_fraction: tuple[float, ...] = (1.0, 0.25)
    """Fractions of the episodes that the Fisher product of the update uses."""
    compiled: bool = True
    """Also measure compiled supervised meta-steps; compilation takes a minute or more."""
    processes: int = 2
    """Maximum number of processes of the scaling measurement."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that runs the benchmark."""
    out: Annotated[Path | None, unset("no file")] = None
    """JSON file for the results."""


class Case(NamedTuple):
    """A titled group of results, with the function that measures them."""

    title: str
    measure: Callable[[], Figures]


def main(args: Benchmark) -> None:
    """Run the measurements, print the tables and write the JSON file."""
    if args.out is not None:
        require_writable(args.out)
    cases = [Case("this machine", lambda: machine(resolve_device(args.device), args.repeats))]
    for name in ALL if args.what == "all" else (args.what,):
        module = importlib.import_module(f"metarl.commands.measures.{PARTS[name]}")
        cases += getattr(module, name)(args)  # invalid settings fail before any measurement
    report: dict[str, Figures] = {}
    for title, measure in cases:
        figures = measure()
        print_table(title, ["figure", "median", "unit"], [_row(*item) for item in figures.items()])
        report.setdefault(title, {}).update(figures)
    if args.out is not None:
        text = json.dumps({"figures": report, "versions": versions()}, indent=2)
        with replacing(args.out) as temporary:
            temporary.write_text(text)


def _row(label: str, value: float) -> list[str]:
    name, _, unit = label.rpartition(" (")
    return [name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}", unit.rstrip(")")]
