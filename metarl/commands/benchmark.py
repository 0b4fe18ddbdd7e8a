"""``metarl benchmark``: measure the speed of sampling, of updates and of the machine."""

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
"""Module in :mod:`metarl.commands.measures` for each measurement.

Each module defines a function with the name of the measurement. The function
receives a :class:`Benchmark` and returns a list of :class:`Case`.
"""
ALL = ("sampling", "update", "regression", "fewshot")


@dataclass(frozen=True)
class Benchmark(Ranged):
    """Measure the speed of sampling, meta-RL updates and supervised meta-steps.

    Speeds are medians over --repeats measurements. All results depend on the
    machine and its load. Therefore, the command also measures reference
    speeds for comparison: a matrix product, a memory copy, the raw physics,
    and a plain loop over tasks.
    """

    what: Annotated[
        Literal["all", "sampling", "update", "regression", "fewshot", "text", "scaling"],
        tyro.conf.Positional,
    ] = "all"
    """Measurement to run. The value all selects every measurement except
    text, which requires the encoder of `metarl train text`, and scaling,
    which starts several processes."""
    repeats: Annotated[int, at_least(1)] = 5
    """Number of timed repetitions per result, after one untimed warm-up."""
    env: tuple[str, ...] = (
        "metarl/Navigation2D-v0", "metarl/RllabHalfCheetahDir-v0", "metarl/HalfCheetahDir-v1",
    )  # fmt: skip
    """Gymnasium IDs of the environments in the sampling and update measurements."""
    num_tasks: Annotated[int | None, unset("20 for navigation, 40 for others")] = None
    """Number of tasks per meta-batch in the sampling and update measurements."""
    episodes_per_task: int = 20
    """Number of episodes per task in the sampling and update measurements."""
    hidden: tuple[int, ...] = ()
    """Widths of the policy's hidden layers in the sampling and update
    measurements. If not set, the widths are 64 64 for Navigation2D-v0 and
    100 100 for all other environments."""
    fisher_fraction: tuple[float, ...] = (1.0, 0.25)
    """Fractions of the episodes from which Fisher-vector products are
    computed in the update measurement; each fraction is measured
    separately."""
    compiled: bool = True
    """Also measure compiled supervised meta-steps; compilation takes a minute or more."""
    processes: int = 2
    """Maximum number of processes in the scaling measurement, which uses 1, 2, ... processes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to measure; auto uses a GPU if available. Scaling always runs on the CPU."""
    out: Annotated[Path | None, unset("no file")] = None
    """Output JSON file for the results and the package versions."""


class Case(NamedTuple):
    """A group of results that is printed as one table.

    Attributes:
        title: Title of the printed table.
        measure: Function that runs the measurements and returns a dictionary.
            The keys are names with units, such as ``"trust-region update
            (s)"``.
    """

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
