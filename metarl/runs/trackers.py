"""Experiment trackers, which send metrics and media to TensorBoard or Weights & Biases."""

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
    """The interface of experiment trackers; the base class discards all data.

    Example::

        class Printer(Tracker):
            def log(self, iteration, metrics):
                print(iteration, metrics)
    """

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Log the metrics of an iteration; `metrics` maps names to values."""

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Log the image or .gif video in the file `path` as `name` for the iteration."""

    def close(self, *, failed: bool) -> None:
        """Send the remaining data and close the tracker; `failed` is True if the run failed."""


class _TensorBoard(Tracker):
    def __init__(self, run: Run, start: int) -> None:
        writer = require_tracker("tensorboard").SummaryWriter
        self._writer = writer(str(run.folder / "tracking"), purge_step=start + 1)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Log the file unchanged, because SummaryWriter requires moviepy for videos."""
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
        identity = folder / "wandb-id"  # a resumed run continues under the same ID
        if not identity.exists():
            write_atomically(identity, uuid.uuid4().hex.encode())
        self._wandb = require_tracker("wandb")
        self._run = self._wandb.init(
            project="metarl",
            name=run.folder.resolve().name,
            id=identity.read_text().strip(),
            resume="allow",
            dir=str(folder),  # wandb 0.19 does not accept a Path
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
"""Class, required module and extra of the package metarl-torch for each tracker."""


def require_tracker(name: str) -> Any:
    """Import and return the module of a tracker, or raise an ImportError if it is missing.

    Args:
        name: ``"tensorboard"``, ``"wandb"`` or ``"none"``, which returns None.

    Raises:
        ImportError: If the package is not installed; the message contains the install command.

    Example::

        require_tracker("tensorboard")
    """
    if name == "none":
        return None
    _, module, extra = _TRACKERS[name]
    return optional.require(module, extra=extra, purpose=f"runs with track={name}")


class SafeTracker(AbstractContextManager["SafeTracker"]):
    """A wrapper that disables a tracker after the first error, so that the run continues.

    The error is printed as a warning.

    Args:
        name: Name of the tracker in the warning.
        make: Function without arguments that returns the tracker.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        """Create the tracker with `make`; an error is printed as a warning that contains `name`."""
        self._name, self._tracker = name, Tracker()
        with self._guarded():
            self._tracker = make()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._guarded():
            self._tracker.close(failed=error is not None)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Log the metrics of an iteration; `metrics` maps names to values."""
        with self._guarded():
            self._tracker.log(iteration, metrics)

    def show(self, iteration: int, name: str, path: Path) -> None:
        """Log the image or .gif video in the file `path` as `name` for the iteration."""
        with self._guarded():
            self._tracker.show(iteration, name, path)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # any error of the network, the disk or the package
            self._tracker = Tracker()
            warn(f"track={self._name} failed ({error}) and is disabled; use metrics.jsonl instead")


def tracker(name: str, run: Run, *, start: int) -> SafeTracker:
    """Return the tracker with the given name.

    In distributed training, only rank 0 sends data. Errors other than a
    missing package are printed as warnings and disable the tracker.

    Args:
        name: ``"none"``, ``"tensorboard"`` or ``"wandb"``.
        run: The run folder.
        start: Last completed iteration, from which training continues; 0 for a new run. TensorBoard
            discards logged data from later iterations.

    Raises:
        ImportError: If the package is not installed; the message contains the install command.
    """
    if name == "none" or not processes.writes():
        return SafeTracker(name, Tracker)
    require_tracker(name)
    return SafeTracker(name, lambda: _TRACKERS[name][0](run, start))
