"""Stopping a run from outside: the first signal lets it write a checkpoint, the second does not."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what a scheduler sends before it kills."""
ONE = 1.0
"""Seconds in which a second signal is an echo of the first: a scheduler signals a process, and its
group as well."""


class Stopped(Exception):
    """A run stopped because a signal asked for it, after it wrote a checkpoint.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int, iteration: int, folder: object) -> None:
        """Name the signal, the last iteration, and the run."""
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after iteration {iteration}; `metarl resume {folder}` continues"
        )
        self.number = number


class StopSignal(AbstractContextManager["StopSignal"]):
    """Listens for signals; outside the main thread, which alone receives them, it does nothing.

    Attributes:
        asked: Number of the signal that came, if one did.
    """

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        """Call `then` at the first signal."""
        self.asked: int | None = None
        self._then, self._at = then, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: object) -> None:
        del frame
        if self.asked is None:
            self.asked, self._at = number, time.monotonic()
            print("\nstopping at the next checkpoint; once more stops at once", file=sys.stderr)
            self._then()
        elif time.monotonic() - self._at > ONE:
            self.__exit__(None, None, None)
            signal.raise_signal(number)  # does what it always did
