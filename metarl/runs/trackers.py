"""Trackers: metrics and pictures that are also sent to TensorBoard or Weights & Biases."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from metarl.core.speed import processes
from metarl.runs.checkpoint import write_atomically
from metarl.runs.folder import Run
from metarl.util import optional, warn


class Tracker:
    """Sends metrics and pictures elsewhere, in addition to the run folder; this one nowhere."""

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Record a picture, or a video that is a .gif."""

    def close(self, *, failed: bool) -> None:
        """Send the rest; another run may begin in this process."""


class _TensorBoard(Tracker):
    def __init__(self, run: Run, start: int) -> None:
        writer = require_tracker("tensorboard").SummaryWriter
        self._writer = writer(str(run.folder / "tracking"), purge_step=start + 1)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Record the file as it is: SummaryWriter needs moviepy for a video."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        data = path.read_bytes()
        with Image.open(path) as opened:
            width, height = opened.size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._writer.file_writer.add_summary(summary, iteration)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        del failed
        self._writer.close()


class _Wandb(Tracker):
    def __init__(self, run: Run, start: int) -> None:
        del start
        folder = run.folder / "tracking"
        folder.mkdir(exist_ok=True)
        identity = folder / "wandb-id"  # a resumed run continues under the same one
        if not identity.exists():
            write_atomically(identity, uuid.uuid4().hex.encode())
        self._wandb = require_tracker("wandb")
        self._run = self._wandb.init(
            project="metarl",
            name=run.folder.resolve().name,
            id=identity.read_text().strip(),
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


_TRACKERS: dict[str, tuple[Callable[[Run, int], Tracker], str, str]] = {
    "tensorboard": (_TensorBoard, "torch.utils.tensorboard", "track"),
    "wandb": (_Wandb, "wandb", "wandb"),
}
"""Names, classes, modules and extras of metarl-torch."""


def require_tracker(name: str) -> Any:
    """Import the module of the tracker called ``tensorboard`` or ``wandb``; ``none`` needs none.

    Raises:
        ImportError: If its package is not installed; the message has the command.
    """
    if name == "none":
        return None
    _, module, extra = _TRACKERS[name]
    return optional.require(module, extra=extra, purpose=f"runs with track={name}")


class CarefulTracker(AbstractContextManager["CarefulTracker"]):
    """A tracker that never stops a run: after its first error it warns and is disabled."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        """Start the tracker that `make` returns."""
        self._name, self._tracker = name, Tracker()
        with self._careful():
            self._tracker = make()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._careful():
            self._tracker.close(failed=error is not None)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""
        with self._careful():
            self._tracker.log(iteration, metrics)

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Record a picture, or a video that is a .gif."""
        with self._careful():
            self._tracker.show(iteration, name, path)

    @contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a network or a full disk does to it
            self._tracker = Tracker()
            warn(f"track={self._name} failed ({error}) and is off; metrics.jsonl has everything")


def tracker(name: str, run: Run, *, start: int) -> CarefulTracker:
    """Start the tracker called ``none``, ``tensorboard`` or ``wandb``.

    Args:
        name: Its name.
        run: The run that it follows.
        start: Iteration that the run starts or continues from; later ones are sent again.

    Raises:
        ImportError: If its package is not installed; the message has the command. Every other
            error is a warning.
    """
    if name == "none" or not processes.writes():
        return CarefulTracker(name, Tracker)
    require_tracker(name)
    return CarefulTracker(name, lambda: _TRACKERS[name][0](run, start))
