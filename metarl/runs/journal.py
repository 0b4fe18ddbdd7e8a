"""Logging during training: metrics, checkpoints, experiment tracking, figures and progress."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from metarl.core import Metrics
from metarl.core.speed import processes
from metarl.runs.config import RunConfig
from metarl.runs.folder import Run
from metarl.runs.media import Media
from metarl.runs.stopping import Stopped, StopSignal
from metarl.runs.trackers import tracker
from metarl.util import Progress


class Journal:
    """A logger that writes the metrics and checkpoints of a run during training.

    Args:
        run: The run folder.
        config: Configuration of the run.
        start: Last completed iteration, from which training continues; 0 for a new run.
        save: Function that writes a checkpoint, with the signature ``save(run, iteration, state)``.

    The documentation of :mod:`metarl.runs` has an example.
    """

    def __init__(
        self, run: Run, config: RunConfig, *, start: int, save: Callable[[Run, int, Any], None]
    ) -> None:
        """Start the experiment tracker; the class documentation describes the arguments."""
        self._run, self._config, self._start, self._save = run, config, start, save
        self._tracker = tracker(config.track, run, start=start)
        self._progress = Progress(config.iterations, start=start, shown=processes.writes())
        self._iteration = start
        self._since: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._times: defaultdict[str, list[float]] = defaultdict(list)
        self._ended = self._began = self._collected = time.perf_counter()
        self._stop = StopSignal()
        self._media = Media(run, config, self._tracker)
        self._parts = ExitStack()

    def __enter__(self) -> "Journal":
        for part in (self._tracker, self._stop, self._progress):
            self._parts.enter_context(part)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._parts.__exit__(kind, error, trace)
        if isinstance(error, FloatingPointError):
            hint = f". {self._run.folder} contains the run up to this iteration"
            raise FloatingPointError(
                f"iteration {self._iteration}: {error}{hint if self._run.metrics() else ''}"
            ) from None

    def iterations(self) -> Iterator[int]:
        """Yield the numbers of the remaining iterations."""
        for iteration in range(self._start + 1, self._config.iterations + 1):
            self._iteration, self._began = iteration, time.perf_counter()
            yield iteration

    @contextmanager
    def collecting(self, state: Any) -> Iterator[None]:
        """Context in which the tasks of the iteration are collected, before the update.

        After a stop signal, the collection is interrupted if it fails or takes more than 10
        seconds, for example because a simulator hangs.

        Args:
            state: State before the iteration, which is saved after an interruption.

        Raises:
            Stopped: If the process received a stop signal and the collection was interrupted; a
                checkpoint is written first.
        """
        try:
            with self._stop.limited():
                yield
        except BaseException as error:
            if self._stop.received is None:
                raise
            self._save_completed(self._iteration - 1, state)
            raise Stopped(self._stop.received, self._iteration - 1, self._run.folder) from error
        self._collected = time.perf_counter()

    def _save_completed(self, iteration: int, state: Any) -> None:
        """Save the checkpoint of the last completed iteration, and its line of metrics."""
        if iteration == self._start:  # this checkpoint exists
            return
        if self._since:
            self._write_line(iteration, self._means())
        self._save(self._run, iteration, state)
        self._run.prune_checkpoints(self._config.keep_checkpoints)

    def checkpoint_is_due(self, iteration: int) -> bool:
        """Return whether :meth:`write` saves a checkpoint after this iteration."""
        return (
            iteration % self._config.checkpoint_every == 0 or iteration == self._config.iterations
        )

    def write(self, iteration: int, state: Any, metrics: Metrics) -> None:
        """Log an iteration, and save a checkpoint if :meth:`checkpoint_is_due` returns True.

        Every ``log_every`` iterations, the means since the previous line are
        written to metrics.jsonl and sent to the tracker.

        Args:
            iteration: Number of the iteration, from 1.
            state: State after the update, which is passed to `save`.
            metrics: Metrics of the iteration, scalar tensors by name.

        Raises:
            Stopped: If the process received a stop signal; a checkpoint is written first.
        """
        for name, value in metrics.items():
            self._since[name].append(value)
        last = iteration == self._config.iterations
        line_is_due = iteration % self._config.log_every == 0 or last
        means = self._means() if line_is_due else {}  # .item() waits for the GPU
        self._note_times()
        if line_is_due:
            values = self._write_line(iteration, means)
        # A run stops after a line of metrics, so that a resumed run writes the same lines.
        # All processes stop at the same iteration, even if the signal reached only some of them.
        stops = processes.most(self._stop.received or 0) if line_is_due and not last else 0
        if self.checkpoint_is_due(iteration) or stops:
            self._save(self._run, iteration, state)
            self._run.prune_checkpoints(self._config.keep_checkpoints)
        if line_is_due:
            self._tracker.log(iteration, values)
            self._progress.update(iteration, values)
        if stops:
            raise Stopped(stops, iteration, self._run.folder)
        self._media.update(iteration)

    def _write_line(self, iteration: int, means: dict[str, float]) -> dict[str, float]:
        values = means | {name: fmean(times) for name, times in self._times.items()}
        self._times.clear()
        self._run.log(iteration, values)
        return values

    def _means(self) -> dict[str, float]:
        means = {
            name: (torch.stack(found).double().mean() if len(found) > 1 else found[0]).item()
            for name, found in self._since.items()
        }
        self._since.clear()
        return means

    def _note_times(self) -> None:
        done = time.perf_counter()
        self._times["time/sampling"].append(self._collected - self._began)
        self._times["time/update"].append(done - self._collected)
        self._times["time/other"].append(self._began - self._ended)
        self._ended = done
