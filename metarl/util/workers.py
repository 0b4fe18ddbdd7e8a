"""Worker processes that answer through pipes: a time limit for their answers, and their end."""

import contextlib
import json
import signal
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any


CLOSING = 10.0  # seconds in which a process must end after it was asked to
SLICE = 1.0  # seconds; see LimitedPipe.recv


class Unanswered(Exception):
    """Error raised if a worker process does not answer in time.

    Attributes:
        index: Index of the process.
    """

    def __init__(self, index: int, seconds: float) -> None:
        """Create the error for process `index` and a time limit in seconds."""
        super().__init__(f"did not answer within {seconds:g} s")
        self.index = index


class LimitedPipe:
    """The pipe to a worker process, with a time limit for each answer.

    Args:
        pipe: The connection to the process.
        index: Index of the process, for errors.
        seconds: The time limit; None waits forever.
    """

    def __init__(self, pipe: Any, index: int, seconds: float | None) -> None:
        """Wrap a connection; the class documentation describes the arguments."""
        self._pipe, self._index, self._seconds = pipe, index, seconds

    def recv(self) -> Any:
        """Receive the next answer.

        Raises:
            Unanswered: If the process does not answer in time. The time during which this process
                is suspended does not count, except for one second.
        """
        left = self._seconds
        while left is not None and not self._pipe.poll(min(left, SLICE)):
            left -= SLICE
            if left <= 0:
                raise Unanswered(self._index, self._seconds or 0.0)
        return self._pipe.recv()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)


def limit_waiting(env: Any, seconds: float | None) -> None:
    """Limit the time for which a vectorized environment waits for its worker processes.

    Args:
        env: A Gymnasium ``AsyncVectorEnv``. Its methods raise :class:`Unanswered` after the time
            limit. Processes that do not end when the environment is closed, such as stopped ones,
            are killed.
        seconds: Time limit for each answer; None waits forever.
    """
    pipes = [LimitedPipe(pipe, index, seconds) for index, pipe in enumerate(env.parent_pipes)]
    env.parent_pipes = pipes
    env.close_extras = partial(close, env.processes, pipes)
    # At exit, multiprocessing waits forever for a stopped process. Its finalizers run before that.
    Finalize(env, close, (env.processes, pipes), exitpriority=0)


def close(processes: Sequence[Any], pipes: Sequence[Any], **options: Any) -> None:
    """Ask all worker processes to close their environments, and kill those that do not end.

    Args:
        processes: The processes.
        pipes: The pipe to each process; Gymnasium replaces the pipe of a failed process with None.
        options: Options of ``AsyncVectorEnv.close``, which are ignored.
    """
    pipes = [pipe for pipe in pipes if pipe is not None]
    for pipe in pipes:
        with contextlib.suppress(OSError):  # the process has ended, or the pipe is closed
            pipe.send(("close", None))
    deadline = time.monotonic() + CLOSING
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
    for pipe in pipes:
        pipe.close()


def kill(processes: Sequence[Any], error: BaseException, tasks: Sequence[Any]) -> str:
    """Kill all worker processes after an error.

    Args:
        processes: The processes.
        error: The error, which may be the consequence of a process that has ended.
        tasks: The task of each process, for the message; may be empty.

    Returns:
        A message if one of the processes has caused the error, such as ``"process 1 of 8 was killed
        by SIGKILL"``, otherwise ``""``.
    """
    lost = [process.sentinel for process in processes if isinstance(error, EOFError | OSError)]
    ended = wait(lost, CLOSING) if lost else []
    guilty = [index for index, process in enumerate(processes) if process.sentinel in ended]
    for process in processes:
        process.kill()
        process.join()
    if isinstance(error, Unanswered):
        guilty, cause = [error.index], str(error)
    elif guilty:
        code = processes[guilty[0]].exitcode
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    else:
        return ""
    task = f" in task {json.dumps(tasks[guilty[0]])}" if tasks else ""
    return f"process {guilty[0]} of {len(processes)} {cause}{task}"
