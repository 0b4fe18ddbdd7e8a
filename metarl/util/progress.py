"""Progress of training and of several runs, in a terminal and in log files."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from metarl.util.console import say


LINES = 20  # number of plain progress lines per run
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
