"""The journal of a training run: metrics, checkpoints, tracker and progress, in one place."""

import time
from collections.abc import Iterator
from types import TracebackType

from metarl import checkpoint
from metarl.config import RunConfig, to_json
from metarl.console import Progress
from metarl.core.types import MetaState, Metrics
from metarl.trackers import tracker
from metarl.tracking import Run


class Journal:
    """Writes a run down while it trains.

    ::

    with Journal(run, config, start=start) as journal:
        for iteration in journal.iterations():
            ...  # collect the tasks
            journal.collected()
            ...  # update the state
            journal.write(iteration, state, metrics)
    """

    def __init__(self, run: Run, config: RunConfig, *, start: int) -> None:
        """Begin after iteration `start`."""
        self._run, self._config, self._start = run, config, start
        self._tracker = tracker(config.track, run, start=start)
        self._progress = Progress(config.iterations, start=start)
        self._iteration = start
        self._ended = self._began = self._collected = time.perf_counter()

    def __enter__(self) -> "Journal":
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(
                f"iteration {self._iteration}: {error}; the run up to here stays in "
                f"{self._run.folder}"
            ) from None

    def iterations(self) -> Iterator[int]:
        """Yield the iterations that are left."""
        for iteration in range(self._start + 1, self._config.iterations + 1):
            self._iteration, self._began = iteration, time.perf_counter()
            yield iteration

    def collected(self) -> None:
        """Note that the tasks are at hand and the update begins."""
        self._collected = time.perf_counter()

    def write(self, iteration: int, state: MetaState, metrics: Metrics) -> None:
        """Write one iteration down, and a checkpoint where one is due."""
        values = {name: value.item() for name, value in metrics.items()}
        done = time.perf_counter()  # .item() has waited for an accelerator
        values |= {
            "time/sampling": self._collected - self._began,
            "time/update": done - self._collected,
            "time/other": self._began - self._ended,
        }
        self._ended = done
        self._run.log(iteration, values)
        if iteration % self._config.checkpoint_every == 0 or iteration == self._config.iterations:
            path = self._run.checkpoint_path(iteration)
            checkpoint.save(path, state, iteration=iteration, config=to_json(self._config))
        if self._tracker is not None:
            self._tracker.log(iteration, values)
        self._progress.update(iteration, values)
