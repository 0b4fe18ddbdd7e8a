"""Trackers: metrics and pictures sent elsewhere, beside what is in the run folder."""

import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from metarl.core.speed import processes
from metarl.runs.checkpoint import write_atomically
from metarl.runs.folder import Run
from metarl.util import optional
from metarl.util.console import warn


@runtime_checkable
class Tracker(Protocol):
    """Sends metrics and pictures elsewhere, beside the run folder."""

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Record a picture, or a video that is a .gif."""

    def close(self, *, failed: bool) -> None:
        """Send what is left; another run may begin in this process."""


class _TensorBoard:
    def __init__(self, run: Run, start: int) -> None:
        writer = require_tracker("tensorboard").SummaryWriter
        self._writer = writer(str(run.folder / "tracking"), purge_step=start + 1)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Record the file as it is: SummaryWriter would need moviepy for what is a .gif by now."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as opened:
            width, height = opened.size
        image = Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._writer.file_writer.add_summary(summary, iteration)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        del failed
        self._writer.close()


class _Wandb:
    def __init__(self, run: Run, start: int) -> None:
        del start
        folder = run.folder / "tracking"
        folder.mkdir(exist_ok=True)
        remembered = folder / "wandb-id"  # a resumed run goes on under the same one
        if not remembered.exists():
            write_atomically(remembered, uuid.uuid4().hex.encode())
        self._wandb = require_tracker("wandb")
        self._run = self._wandb.init(
            project="metarl",
            name=run.folder.resolve().name,
            id=remembered.read_text().strip(),
            resume="allow",
            dir=str(folder),  # wandb 0.19 takes no path
            config=run.read_config()["config"],
        )

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=iteration)

    def show(self, iteration: int, name: str, path: Path) -> None:
        kind = self._wandb.Video if path.suffix == ".gif" else self._wandb.Image
        self._run.log({name: kind(str(path))}, step=iteration)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


_TRACKERS: dict[
    str, tuple[Callable[[Run, int], Tracker], str, str]
] = {  # name: (class, module, extra)
    "tensorboard": (_TensorBoard, "torch.utils.tensorboard", "track"),
    "wandb": (_Wandb, "wandb", "wandb"),
}


def require_tracker(name: str) -> Any:
    """Import the module of the tracker called ``tensorboard`` or ``wandb``; ``none`` needs none.

    Raises:
        ImportError: If its package is not installed; the message has the command.
    """
    if name == "none":
        return None
    _, module, extra = _TRACKERS[name]
    return optional.require(module, extra=extra, purpose=f"runs with --track {name}")


class CarefulTracker:
    """A tracker that never stops a run: at the first error it says so and falls silent."""

    def __init__(self, name: str, make: Callable[[], Tracker | None]) -> None:
        """Begin with what `make` returns; None hears of everything and tells nobody."""
        self._name = name
        self._tracker: Tracker | None = None
        self._safely(lambda: setattr(self, "_tracker", make()))

    def __enter__(self) -> "CarefulTracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if (tracker := self._tracker) is not None:
            self._safely(lambda: tracker.close(failed=error is not None))

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""
        if (tracker := self._tracker) is not None:
            self._safely(lambda: tracker.log(iteration, metrics))

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Record a picture, or a video that is a .gif."""
        if (tracker := self._tracker) is not None:
            self._safely(lambda: tracker.show(iteration, name, path))

    def _safely(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a network or a full disk does to it
            self._tracker = None
            warn(f"--track {self._name} failed ({error}) and is off; metrics.jsonl has everything")


def tracker(name: str, run: Run, *, start: int) -> CarefulTracker:
    """Make the tracker called ``none``, ``tensorboard`` or ``wandb``; `start` is where it begins.

    Whatever goes wrong in it is a warning: a run does not end because nobody watches.

    Raises:
        ImportError: If its package is not installed; the message has the command.
    """
    if name == "none" or not processes.writes():
        return CarefulTracker(name, lambda: None)
    require_tracker(name)
    return CarefulTracker(name, lambda: _TRACKERS[name][0](run, start))
