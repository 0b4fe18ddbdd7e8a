"""Stopping a run from outside: the first signal lets it write a checkpoint, the second does not."""

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what a scheduler sends before it kills."""
ONE = 1.0
"""Seconds in which a second signal is an echo of the first: a scheduler tells a process, and its
group as well."""


class Stopped(Exception):
    """A run stopped because it was asked to, after it wrote a checkpoint.

    Attributes:
        number: That of the signal.
    """

    def __init__(self, number: int, iteration: int, folder: object) -> None:
        """Say after which iteration of which run."""
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after iteration {iteration}; `metarl resume {folder}` goes on"
        )
        self.number = number


class StopSignal:
    """Listens for signals while a run trains. Outside the main thread it hears none."""

    def __init__(self) -> None:
        """Begin unasked."""
        self.asked: int | None = None
        self._heard = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked is None:
            self.asked, self._heard = number, time.monotonic()
            print("\nstopping at the next checkpoint; once more stops at once", file=sys.stderr)
        elif time.monotonic() - self._heard > ONE:
            self.__exit__(None, None, None)
            signal.raise_signal(number)  # does what it always did
