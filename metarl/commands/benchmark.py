"""Measure sampling and updates, and what the machine can do at most: ``metarl benchmark``."""

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
"""What is measured, and the module of :mod:`metarl.commands.measures` with a function of that name.

The function takes the settings and returns cases, built and ready to be measured.
"""
ALL = ("sampling", "update", "regression", "fewshot")


@dataclass(frozen=True)
class Benchmark(Ranged):
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
    repeats: Annotated[int, at_least(1)] = 5
    """Measurements of each figure, after one to warm up."""
    env: tuple[str, ...] = (
        "metarl/Navigation2D-v0", "metarl/RllabHalfCheetahDir-v0", "metarl/HalfCheetahDir-v1",
    )  # fmt: skip
    """Environments to measure."""
    num_tasks: Annotated[int | None, unset("20 for navigation, 40 for others")] = None
    """Number of tasks in a meta-batch."""
    episodes_per_task: int = 20
    """Number of episodes of each task."""
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
    out: Annotated[Path | None, unset("no file")] = None
    """JSON file for the results."""


class Case(NamedTuple):
    """Figures under one title, and the function that measures them."""

    title: str
    measure: Callable[[], Figures]


def main(args: Benchmark) -> None:
    """Measure and print."""
    if args.out is not None:
        require_writable(args.out)
    cases = [Case("this machine", lambda: machine(resolve_device(args.device), args.repeats))]
    for name in ALL if args.what == "all" else (args.what,):
        module = importlib.import_module(f"metarl.commands.measures.{PARTS[name]}")
        cases += getattr(module, name)(args)  # an impossible setting fails before any measurement
    report: dict[str, Figures] = {}
    for title, measure in cases:
        figures = measure()
        print_table(title, ["figure", "median", "unit"], [_row(*item) for item in figures.items()])
        report.setdefault(title, {}).update(figures)
    if args.out is not None:
        args.out.write_text(json.dumps({"figures": report, "versions": versions()}, indent=2))


def _row(label: str, value: float) -> list[str]:
    name, _, unit = label.rpartition(" (")
    return [name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}", unit.rstrip(")")]
