"""Console output: training progress, tables and warnings."""

import math
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table as RichTable
from rich.text import Text


LINES = 20  # number of plain progress lines per run
LONGEST = 100  # characters per table cell
NARROWEST = 20  # characters of a column of text in tables that do not fit into the terminal
METRICS = {
    "query/loss": "loss {:.4f}",
    "query/accuracy": "accuracy {:.1%}",
    "validation/loss": "validation loss {:.4f}",
    "validation/accuracy": "validation accuracy {:.1%}",
    "trpo/kl": "KL {:.4f}",
    "outer/kl": "KL {:.4f}",
}
"""Format strings by metric name; training progress shows these metrics after the returns."""


class Progress(AbstractContextManager["Progress"]):
    """A progress display for training, with the iteration, main metrics and remaining time.

    A terminal shows a progress bar. Other outputs, such as log files and
    notebooks, receive about 20 plain lines per run.

    Args:
        total: Number of iterations of the run.
        start: Iteration that the run starts or continues from.
        shown: Whether to print anything. In distributed training, pass True only on rank 0.

    Example::

        with Progress(total=3) as progress:
            for iteration in (1, 2, 3):
                progress.update(iteration, {"query/loss": 0.5})
    """

    def __init__(self, total: int, *, start: int = 0, shown: bool = True) -> None:
        """Create the display, which appears when the context is entered."""
        self._total, self._start, self._began = total, start, time.monotonic()
        self._every = max(1, total // LINES)
        self._printed = start - start % self._every
        console = Console()
        self._lines = shown and not console.is_terminal
        self._bar = RichProgress(
            TextColumn("iteration"),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=self._lines or not shown,
        )
        self._row = self._bar.add_task("", total=total, completed=start, text="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.stop()

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        """Show the metrics of one iteration.

        Args:
            iteration: Number of the iteration, from 1.
            metrics: Metrics by name; only returns and the metrics in :data:`METRICS` are shown.
        """
        text = _summary(metrics)
        self._bar.update(self._row, completed=iteration, text=text)
        due = iteration - self._printed >= self._every or iteration == self._total
        if due and self._lines:
            self._printed = iteration
            elapsed = time.monotonic() - self._began
            left = elapsed / (iteration - self._start) * (self._total - iteration)
            say(f"iteration {iteration}/{self._total}  {text}  {left:.0f} s left")


class Overall:
    """Progress over several runs: one line when a run starts, with an estimate of the time left.

    Args:
        total: Number of runs.
        jobs: Number of runs that are executed in parallel.

    Example::

        overall = Overall(total=2)
        for name in ("maml-0", "maml-1"):
            with overall.run(name):
                print(f"training {name}")
    """

    def __init__(self, total: int, jobs: int = 1) -> None:
        """Create the display, which prints nothing until the first run starts."""
        self._total, self._jobs = total, jobs
        self._started, self._longest, self._lock = 0, 0.0, Lock()

    @contextmanager
    def run(self, name: object) -> Iterator[None]:
        """Print the number of a run, and measure the duration of the ``with`` block.

        The estimate of the time left assumes that every run takes as long as the longest run so
        far. Several threads can call this method.

        Args:
            name: Name of the run.
        """
        with self._lock:
            rounds = math.ceil((self._total - self._started) / self._jobs)
            left = f", about {_duration(self._longest * rounds)} left" if self._longest else ""
            self._started += 1
            say("", f"run {self._started} of {self._total}: {name}{left}")
        began = time.monotonic()
        yield
        with self._lock:
            self._longest = max(self._longest, time.monotonic() - began)


def _duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours, such as ``"5 min"``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _summary(metrics: dict[str, float]) -> str:
    """Return a text with the returns and the metrics in :data:`METRICS`."""
    returns = [f"{x:.2f}" for name, x in metrics.items() if name.startswith("return/step_")]
    words = [f"return {' → '.join(returns)}"] if returns else []
    words += [text.format(metrics[name]) for name, text in METRICS.items() if name in metrics]
    return "  ".join(words)


class Table(NamedTuple):
    """A table for :func:`print_table`.

    Attributes:
        title: Title above the table.
        columns: Names of the columns.
        rows: Rows of the table, each with one cell per column.
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]


def print_table(title: str, columns: list[str], rows: list[list[Any]], *, left: int = 1) -> None:
    """Print a table to stdout, without markup: square brackets are printed as they are.

    Text is wrapped, but numbers are not: if the columns do not fit into the terminal, the table is
    printed in parts that repeat the left-aligned columns. Cells with more than 100 characters are
    shortened, and control characters are replaced.

    Args:
        title: Title above the table.
        columns: Names of the columns.
        rows: Rows of the table, each with one cell per column.
        left: Number of leading columns that are left-aligned; the others are right-aligned.

    Example::

        print_table("test tasks", ["steps", "return"], [[0, "-40.1"], [1, "-18.2"]])
    """
    console = _Console()
    console.print(Text(printable(title), style="italic"))
    lines = [[_shortened(printable(str(cell))) for cell in line] for line in (columns, *rows)]
    for widths in _parts(lines, left, console.width):
        table = RichTable()
        for index, width in widths.items():
            justify: Any = "left" if index < left else "right"
            table.add_column(Text(lines[0][index]), justify=justify, width=width, overflow="fold")
        for line in lines[1:]:
            table.add_row(*(Text(line[index]) for index in widths))
        console.print(table)


def _parts(lines: list[list[str]], left: int, width: int) -> list[dict[int, int | None]]:
    """Divide the columns of a table into parts that fit into a terminal.

    Args:
        lines: Cells of the header and of the rows.
        left: Number of leading columns of text, which every part contains.
        width: Characters in a line of the terminal.

    Returns:
        For each part, the width of each column by index; None if the text can be wrapped.
    """
    columns = [[*map(cell_len, column)] for column in zip(*lines, strict=True)]
    room = width - 1 - sum(min(max(sizes), NARROWEST) + 3 for sizes in columns[:left])
    numbers = range(left, len(columns))
    wide = {index: max(columns[index]) for index in numbers}
    if sum(wide.values()) + 3 * len(wide) > room:  # the headers are wrapped between words
        words = {index: max(map(cell_len, lines[0][index].split()), default=0) for index in numbers}
        wide = {index: max(words[index], *columns[index][1:], 1) for index in numbers}
    parts: list[dict[int, int | None]] = [dict.fromkeys(range(left))]
    free = room
    for index, size in wide.items():
        if size + 3 > free < room:
            parts.append(dict.fromkeys(range(left)))
            free = room
        parts[-1][index] = max(1, min(size, room - 3))
        free -= size + 3
    return parts


class _Console(Console):
    """A console that raises a BrokenPipeError as ``print`` does, instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise  # called while the error is handled


def printable(text: str) -> str:
    r"""Return one line of text; control characters and invalid characters of file names become �.

    Example::

        printable("\x1b[31mred")  # "\N{REPLACEMENT CHARACTER}[31mred"
    """
    return "".join(x if x.isprintable() else " " if x.isspace() else "\ufffd" for x in text)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def say(*lines: str, to_stderr: bool = False) -> None:
    """Print lines without control characters, which files of other people may contain.

    All output of the command line is printed with this function or as a table.

    Args:
        lines: The lines; a line feed within a line becomes a space.
        to_stderr: Print to stderr instead of stdout.

    Example::

        say("written to runs/quick")
    """
    for line in lines:
        print(printable(line), file=sys.stderr if to_stderr else sys.stdout, flush=True)


def warn_of_similar(names: Iterable[str], source: object) -> None:
    """Warn if two class names look alike, such as "red" and "red ".

    Args:
        names: The class names.
        source: File, folder or task with the classes, for the message.
    """
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(_simplified(name), name)
        if other != name:
            warn(
                f"the classes {other!a} and {name!a} of {source} differ only in white space, case "
                "or Unicode form. Rename one of them if they are the same class"
            )
            return


def _simplified(name: str) -> str:
    """Return a name without differences in white space, case, Unicode form and invisible marks."""
    visible = (x for x in unicodedata.normalize("NFKC", name) if unicodedata.category(x) != "Cf")
    return " ".join("".join(visible).split()).casefold()


def warn(message: str) -> None:
    """Print `message` as a one-line warning to stderr, with the prefix ``metarl: warning:``."""
    say(f"metarl: warning: {message}", to_stderr=True)
