"""``metarl predict RUN --support EXAMPLES --inputs FILES``: predict from a few labeled examples."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.commands.opened import opened, require_trusted
from metarl.experiment import Device, Experiment
from metarl.runs import read_chosen, unset
from metarl.runs.card import POLICY
from metarl.util import (
    Ranged,
    Table,
    at_least,
    print_table,
    raise_if,
    replacing,
    require_writable,
    say,
)


SHOWN = 50  # rows of the printed table


@dataclass(frozen=True)
class Predict(Ranged):
    """Adapt a trained classifier or regression network to examples, and predict new inputs.

    The training data are not required. Images are classified with the
    batch-norm statistics of the support images, so that each prediction is
    independent of the other inputs.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, from `metarl train` or `metarl pull`."""
    support: Path
    """Labeled examples. Images: a folder with one subfolder per class. Text: a
    .jsonl file with lines {"text": TEXT, "label": NAME}. Regression: a .csv
    file with the columns x and y."""
    inputs: Path
    """New inputs. Images: a folder, which is searched recursively. Text: a
    .jsonl file with lines {"text": TEXT}. Regression: a .csv file with the
    column x."""
    out: Annotated[Path | None, unset("no file")] = None
    """Output CSV file for all predictions; the printed table is limited to 50 rows."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint; 0 is the untrained initialization."""
    device: Device = "auto"
    """Device for the computation; auto selects CUDA if it is available and the CPU otherwise."""
    steps: Annotated[
        int | None,
        at_least(0),
        tyro.conf.arg(aliases=["--test-steps"]),
        unset("the number of test-time steps of the run"),
    ] = None
    """Number of inner steps for the adaptation to the examples."""
    start: Annotated[Literal["prototypes", "zero"] | None, unset("the initial head of the run")] = (
        None
    )
    """Initial head of a classifier: prototypes (class means of the features) or
    zero. Both support any number of classes."""
    encoder: Annotated[str | None, unset("value used in training")] = None
    """Folder or Hugging Face name of the pretrained encoder; set this if the
    folder has moved since training."""
    trust_env: bool = False
    """Import the module of an encoder module:function of a pulled run and run
    its code; set this flag only if you trust the module."""


def main(args: Predict) -> None:
    """Adapt to the examples, print the predictions and, if `out` is set, write a CSV file."""
    run, experiment = named = opened(args.run)
    require_trusted(named, trust_env=args.trust_env)
    _require_supported(args, experiment)
    for name, path in (("support", args.support), ("inputs", args.inputs)):
        if not path.exists():
            raise FileNotFoundError(
                f"`{name}` must be an existing file or folder, got {path}. Check the path"
            )
    if args.out is not None:
        _require_separate(args.out, args.support, args.inputs)
        require_writable(args.out)
    chosen = experiment.changed(device=args.device)
    iteration, params = read_chosen(run, args.checkpoint, chosen.read)
    model = chosen.model(params, **_given(args, "encoder"))
    adapted = model.adapt(args.support, steps=args.steps, **_given(args, "start"))
    table = adapted.table(args.inputs)
    if args.out is not None:
        write(table, args.out)
    show(table, f"{args.run}, iteration {iteration}")
    if args.out is not None:
        say(f"written to {args.out}")


def _require_supported(args: Predict, experiment: Experiment[Any]) -> None:
    """Raise a ValueError if the run does not predict or does not support an option."""
    family, run = experiment.describe().family, args.run
    classes, encodes = (
        family == "few-shot-classification",
        getattr(experiment.config, "encoder", None),
    )
    raise_if(
        (
            family == POLICY,
            f"{run} is a run of `metarl train {experiment.name}`, which does not predict. Use a "
            "run of fewshot, text or regression",
        ),
        (args.start and not classes, f"`start` requires a classifier, got {run}. Remove `start`"),
        (
            args.encoder and not encodes,
            f"`encoder` requires a run with a pretrained encoder, got {run}. Remove `encoder`",
        ),
    )


def _require_separate(out: Path, *sources: Path) -> None:
    """Raise a ValueError if the output is an input file or inside an input folder."""
    for source in map(Path.resolve, sources):
        if out.resolve() == source or source in out.resolve().parents:
            raise ValueError(
                f"`out` must be outside of the support and the inputs, got {out}, which would "
                f"change {source}. Choose a different path"
            )


def _given(args: Predict, name: str) -> dict[str, Any]:
    """Return ``{name: value}`` for the option `name`, or ``{}`` if the option is not set."""
    value = getattr(args, name)
    return {} if value is None else {name: value}


def show(table: Table, title: str) -> None:
    """Print the first ``SHOWN`` rows of a table.

    Args:
        table: The table.
        title: First part of the printed title; the title of the table follows.
    """
    title = f"{title}: {table.title}"
    if len(table.rows) > SHOWN:
        title += f" (first {SHOWN}; use --out for all)"
    print_table(title, table.columns, table.rows[:SHOWN])


def write(table: Table, path: Path) -> None:
    """Write a table to a CSV file with a header.

    Args:
        table: The table.
        path: The file; an existing file is replaced.
    """
    # Names of files that are not valid UTF-8 keep their bytes.
    options: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with replacing(path) as temporary, temporary.open("w", **options) as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(table.rows)
