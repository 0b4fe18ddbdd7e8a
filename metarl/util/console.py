"""What a person sees: progress (a bar, or plain lines where output is no terminal) and tables."""

import importlib
import io
import math
import sys
import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table as RichTable


LINES = 20  # plain lines of a whole run
NEWS = {
    "query/loss": "loss {:.4f}",
    "query/accuracy": "accuracy {:.1%}",
    "validation/loss": "validation loss {:.4f}",
    "validation/accuracy": "validation accuracy {:.1%}",
    "trpo/kl": "KL {:.4f}",
    "outer/kl": "KL {:.4f}",
}
"""Metrics that progress shows after the returns, and how."""


class Progress(AbstractContextManager["Progress"]):
    """Shows iteration, returns before and after adaptation, KL and the time left."""

    def __init__(self, total: int, *, start: int = 0, shown: bool = True) -> None:
        """Count from `start` to `total` iterations; of several processes one shows them."""
        self._shown = shown
        self._total, self._start, self._began = total, start, time.monotonic()
        self._every = max(1, total // LINES)
        self._drawn, self._printed = -math.inf, start - start % self._every
        self._console = Console()
        self._cell: Any = None  # of a notebook: what is shown there, and replaced
        self._bar = RichProgress(
            TextColumn("iteration"),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal or not shown,
        )
        self._row = self._bar.add_task("", total=total, completed=start, news="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.stop()

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        """Report one iteration."""
        news = _news(metrics)
        self._bar.update(self._row, completed=iteration, news=news)
        if self._console.is_jupyter:
            self._show_in_notebook(last=iteration == self._total)
            return
        due = iteration - self._printed >= self._every or iteration == self._total
        if due and self._shown and not self._console.is_terminal:
            self._printed = iteration
            elapsed = time.monotonic() - self._began
            left = elapsed / (iteration - self._start) * (self._total - iteration)
            print(f"iteration {iteration}/{self._total}  {news}  {left:.0f} s left", flush=True)

    def _show_in_notebook(self, *, last: bool) -> None:
        """Put the bar where it was before; Rich's own way would need ipywidgets."""
        now = time.monotonic()
        if not self._shown or not (last or now - self._drawn > 0.2):
            return
        self._drawn, text = now, io.StringIO()
        Console(file=text, width=100, force_jupyter=False, force_terminal=False).print(self._bar)
        content = {"text/plain": text.getvalue().rstrip()}
        if self._cell is None:
            show = importlib.import_module("IPython.display").display
            self._cell = show(content, raw=True, display_id=True)
        else:
            self._cell.update(content, raw=True)


def _news(metrics: dict[str, float]) -> str:
    """Word the most important metrics of an iteration."""
    returns = [f"{x:.2f}" for name, x in metrics.items() if name.startswith("return/step_")]
    words = [f"return {' → '.join(returns)}"] if returns else []
    words += [text.format(metrics[name]) for name, text in NEWS.items() if name in metrics]
    return "  ".join(words)


class Table(NamedTuple):
    """A table to print: title, column names and rows."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def print_table(title: str, columns: list[str], rows: list[list[Any]], *, left: int = 1) -> None:
    """Print a table, the first `left` columns flush left and the others right."""
    table = RichTable(title=title, title_justify="left")
    for index, column in enumerate(columns):
        justify: Any = "left" if index < left else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def warn(message: str) -> None:
    """Print one line to stderr."""
    print(f"metarl: warning: {message}", file=sys.stderr)
