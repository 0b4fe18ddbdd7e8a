"""How a command ends: exit status, one-line errors and closed outputs."""

import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from metarl.commands.parsing import CLOSE
from metarl.commands.usage import UsageError
from metarl.runs import Stopped
from metarl.util import say


LONGEST = 1500  # characters of an error; user environments can raise long ones
ONE_LINE = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError, MemoryError)
"""Exceptions whose messages are printed without a traceback."""


@contextmanager
def one_line_errors(words: Sequence[str]) -> Iterator[None]:
    """Print errors in one line and exit, or raise them if `words` contain ``--debug``.

    The exit status is 1 for a failure, 2 for an invalid command line, and
    128 + n if signal n stopped the command.

    Args:
        words: Command-line arguments after ``metarl``.
    """
    sys.excepthook = _print_traceback
    try:
        yield
    except KeyboardInterrupt:
        trains = words[:1] in (["train"], ["resume"])
        hint = "; `metarl resume RUN` continues from the last checkpoint" if trains else ""
        _fail(f"interrupted{hint}", 130)
    except Stopped as stopped:
        _fail(str(stopped), 128 + stopped.number, once=True)
    except UsageError as error:
        _fail(str(error), 2, once=True)
    except Exception as error:
        # The errors of Gymnasium have no common base class.
        known = isinstance(error, ONE_LINE) or type(error).__module__.startswith("gymnasium")
        closed = isinstance(error, BrokenPipeError) and _has_closed_outputs()
        if "--debug" in words or closed or not known:
            raise
        if getattr(error, "reported_elsewhere", False):  # a different process has printed it
            say(f"metarl: {error}", to_stderr=True)
            sys.exit(1)
        once = isinstance(error, FloatingPointError) or getattr(error, "raised_everywhere", False)
        _fail(_message(error), 1, once=once)


@contextmanager
def quiet_closed_outputs() -> Iterator[None]:
    """Exit without a message if the reader of an output has exited, as with ``| head``.

    The exit status is that of programs that SIGPIPE stops. Python ignores this signal, because
    pipes to other processes and network connections must not end the program. If the disk with an
    output is full, the error is printed once.
    """
    try:
        try:
            yield
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
    except OSError as error:
        full = error.errno == errno.ENOSPC
        if not full and not (isinstance(error, BrokenPipeError) and _has_closed_outputs()):
            raise
        if full and not isinstance(error.__context__, SystemExit):  # not yet reported
            say(f"metarl: error: {error}", to_stderr=True)
        for number in (1, 2):  # Python flushes both at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        sys.exit(1 if full else 128 + signal.SIGPIPE)


def _has_closed_outputs() -> bool:
    """Return whether the reader of stdout or stderr has exited."""
    if not hasattr(select, "poll"):  # on Windows
        return False
    outputs = select.poll()
    for number in (1, 2):
        outputs.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in outputs.poll(0))


def _message(error: Exception) -> str:
    """Return the message of an error in one line, with what the message lacks."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"not enough memory: {text or CLOSE}"
    if getattr(error, "in_user_code", False):
        return f"{text}; --debug shows the traceback"
    return text or type(error).__name__


def _print_traceback(kind: Any, error: BaseException, trace: Any) -> None:
    """Print an uncaught error without control characters, which a run's files may contain."""
    lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
    say(*lines, to_stderr=True)


def _fail(message: str, code: int, *, once: bool = False) -> NoReturn:
    """Print an error to stderr and exit.

    Args:
        message: The error, in one line; messages with more than 1500 characters are shortened.
        code: Exit status of the process.
        once: Whether only rank 0 prints the error in distributed training. Use True for errors
            that all ranks raise.
    """
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    if once and several and os.environ.get("RANK", "0") != "0":
        time.sleep(1)  # torchrun ends all processes after a failure; rank 0 must print first
    else:
        cut = f"{message[:LONGEST]}... (--debug shows all)" if len(message) > LONGEST else message
        say(f"metarl: error: {cut}", to_stderr=True)
    sys.exit(code)
