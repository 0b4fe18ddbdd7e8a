"""The journal of a training run: metrics, checkpoints, tracker, pictures, progress in one place."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import fmean
from typing import Any, TypeAlias

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


Save: TypeAlias = Callable[[Run, int, Any], None]
"""``(run, iteration, state) -> None``."""


class Journal:
    """Writes a run down while it trains.

    ::

    with Journal(run, config, start=start, save=save) as journal:
        for iteration in journal.iterations():
            ...  # collect the tasks
            journal.collected()
            ...  # update the state
            journal.write(iteration, state, metrics)
    """

    def __init__(self, run: Run, config: RunConfig, *, start: int, save: Save) -> None:
        """Begin after iteration `start`; `save` writes checkpoints."""
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
            stays = f"; the run up to here stays in {self._run.folder}"
            raise FloatingPointError(
                f"iteration {self._iteration}: {error}{stays if self._run.metrics() else ''}"
            ) from None

    def iterations(self) -> Iterator[int]:
        """Yield the iterations that are left."""
        for iteration in range(self._start + 1, self._config.iterations + 1):
            self._iteration, self._began = iteration, time.perf_counter()
            yield iteration

    def collected(self) -> None:
        """Note that the tasks are at hand and the update begins."""
        self._collected = time.perf_counter()

    def checkpoint_is_due(self, iteration: int) -> bool:
        """Say whether :meth:`write` will save the state after this iteration."""
        return (
            iteration % self._config.checkpoint_every == 0 or iteration == self._config.iterations
        )

    def write(self, iteration: int, state: Any, metrics: Metrics) -> None:
        """Write one iteration down, and a checkpoint where one is due.

        A line of metrics holds the means since the last line.

        Raises:
            Stopped: If a signal asked for it; the checkpoint is written before.
        """
        for name, value in metrics.items():
            self._since[name].append(value)
        last = iteration == self._config.iterations
        line_is_due = iteration % self._config.log_every == 0 or last
        means = self._means() if line_is_due else {}  # .item() waits for an accelerator
        self._note_times()
        if line_is_due:
            values = means | {name: fmean(times) for name, times in self._times.items()}
            self._times.clear()
            self._run.log(iteration, values)
        # Where a line ends, so that a resumed run writes the lines of an undisturbed one.
        # All processes stop at the same one, also if a signal has not reached each yet.
        stops = processes.most(self._stop.asked or 0) if line_is_due and not last else 0
        if self.checkpoint_is_due(iteration) or stops:
            self._save(self._run, iteration, state)
            self._run.forget_checkpoints(self._config.keep_checkpoints)
        if line_is_due:
            self._tracker.log(iteration, values)
            self._progress.update(iteration, values)
        if stops:
            raise Stopped(stops, iteration, self._run.folder)
        self._media.update(iteration)

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
