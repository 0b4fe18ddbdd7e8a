"""Handling of stop signals: a run saves a checkpoint and raises :class:`Stopped`."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from metarl.util import say


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop a run: SIGINT (Ctrl-C) and SIGTERM, which job schedulers send to end a job."""
ECHO = 1.0
"""Time after the first signal during which further signals are ignored, in
seconds. Some job schedulers send a signal both to the process and to the
process group."""
GRACE = 10.0
"""Time after the first signal in which the tasks of an iteration must be collected, in seconds. Job
schedulers usually kill a process 30 seconds after the signal."""


class Overdue(BaseException):
    """Exception that interrupts a block of :meth:`StopSignal.limited`; not an error of the block.

    It is no Exception, so that code in the block does not handle it.
    """


class Stopped(Exception):
    """Exception raised after a stop signal, when the run has saved a checkpoint.

    Attributes:
        number: Number of the signal, such as ``signal.SIGTERM``.

    Example::

        try:
            metarl.train("maml-trpo", out="runs/quick")
        except Stopped as stopped:
            sys.exit(128 + stopped.number)
    """

    def __init__(self, number: int, iteration: int, folder: object) -> None:
        """Create the exception from the signal number, the last iteration and the run folder."""
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after iteration {iteration}. Continue with `metarl resume {folder}`"
        )
        self.number = number


class StopSignal(AbstractContextManager["StopSignal"]):
    """A context manager that records SIGINT and SIGTERM instead of ending the process.

    Repeated signals within one second of the first are ignored. A later
    signal has its default effect. Outside the main thread, the context
    manager does nothing, because Python delivers signals only to the main
    thread.

    Args:
        then: Function without arguments that is called at the first signal.
            Does nothing by default.

    Attributes:
        received: Number of the first signal, or None if no signal was received.

    Example::

        with StopSignal() as stop:
            while stop.received is None:
                time.sleep(1.0)  # or one iteration of training
    """

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        """Create the context manager; signals are recorded after the context is entered.

        Args:
            then: Function called at the first signal; does nothing by default.
        """
        self.received: int | None = None
        self._then, self._at = then, 0.0
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._limited = self._overdue = False

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Interrupt the block with :class:`Overdue` 10 seconds after the first signal.

        The time starts with the block if the signal was received before. A wait for a process that
        does not answer is interrupted too. Code in C that does not return cannot be interrupted.
        """
        self._limited = True
        try:
            if self.received is not None:
                self._start_timer()
            yield
        finally:
            self._limited = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer.join()  # its signal, if any, has arrived and is ignored
                self._timer = None

    def _start_timer(self) -> None:
        if self._timer is None and self._before and hasattr(signal, "pthread_kill"):
            self._timer = threading.Timer(GRACE, self._interrupt)
            self._timer.daemon = True
            self._timer.start()

    def _interrupt(self) -> None:
        """Interrupt the main thread, which may be waiting in a system call."""
        self._overdue = True
        signal.pthread_kill(threading.main_thread().ident or 0, self.received or signal.SIGINT)

    def _receive(self, number: int, frame: object) -> None:
        del frame
        if self._overdue:
            self._overdue = False
            if self._limited:
                raise Overdue
            return
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            text = "stopping at the next checkpoint; a second signal stops at once"
            say("", text, to_stderr=True)
            self._then()
            if self._limited:
                self._start_timer()
        elif time.monotonic() - self._at > ECHO:
            self.__exit__(None, None, None)
            signal.raise_signal(number)  # with the handler from before the context
