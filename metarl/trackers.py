"""Trackers: metrics sent elsewhere, beside metrics.jsonl."""

import uuid
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from metarl import optional
from metarl.checkpoint import write_atomically
from metarl.console import warn
from metarl.core import world
from metarl.tracking import Run


@runtime_checkable
class Tracker(Protocol):
    """Sends metrics elsewhere, beside metrics.jsonl."""

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""


class _TensorBoard:
    def __init__(self, run: Run, start: int) -> None:
        writer = require_tracker("tensorboard").SummaryWriter
        self._writer = writer(str(run.folder / "tracking"), purge_step=start + 1)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()


class _Wandb:
    def __init__(self, run: Run, start: int) -> None:
        del start
        folder = run.folder / "tracking"
        folder.mkdir(exist_ok=True)
        remembered = folder / "wandb-id"  # a resumed run goes on under the same one
        if not remembered.exists():
            write_atomically(remembered, uuid.uuid4().hex.encode())
        self._run = require_tracker("wandb").init(
            project="metarl",
            name=run.folder.resolve().name,
            id=remembered.read_text().strip(),
            resume="allow",
            dir=folder,
            config=run.read_config()["config"],
        )

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=iteration)


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


class _Careful:
    """A tracker that never stops a run: at the first error it says so and falls silent."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker = self._safely(make)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""
        tracker = self._tracker
        if (
            tracker is not None
            and self._safely(lambda: tracker.log(iteration, metrics) or True) is None
        ):
            self._tracker = None

    def _safely(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever a network or a full disk does to it
            warn(f"--track {self._name} failed ({error}) and is off; metrics.jsonl has everything")
            return None


def tracker(name: str, run: Run, *, start: int) -> Tracker | None:
    """Make the tracker called ``none``, ``tensorboard`` or ``wandb``; `start` is where it begins.

    Whatever goes wrong in it is a warning: a run does not end because nobody watches.

    Raises:
        ImportError: If its package is not installed; the message has the command.
    """
    if name == "none" or not world.writes():
        return None
    require_tracker(name)
    return _Careful(name, lambda: _TRACKERS[name][0](run, start))
