"""Time limits of worker processes, and their end."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from metarl.util import workers
from metarl.util.workers import LimitedPipe, Unanswered, close, kill


def answer(pipe: Any) -> None:
    """Answer every message after the number of seconds that it contains."""
    while isinstance(seconds := pipe.recv()[0], float):
        time.sleep(seconds)
        pipe.send(seconds)


@pytest.fixture
def worker() -> Iterator[tuple[Any, Any]]:
    """A process and the pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=answer, args=(theirs,))
    process.start()
    yield process, ours
    process.kill()
    process.join()


def test_slow_answers_are_received_and_missing_ones_raise(worker: tuple[Any, Any]) -> None:
    pipe = LimitedPipe(worker[1], 3, 1.5)
    pipe.send((1.2,))
    assert pipe.recv() == 1.2
    pipe.send((60.0,))
    with pytest.raises(Unanswered, match=r"did not answer within 1.5 s"):
        pipe.recv()
    error = Unanswered(0, 1.5)
    assert kill([worker[0]], error, [{"a": 1}]) == (
        'process 0 of 1 did not answer within 1.5 s in task {"a": 1}'
    )
    assert not worker[0].is_alive()


def test_processes_end_when_asked_and_are_killed_otherwise(
    worker: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, pipe = worker
    close([process], [pipe])
    assert process.exitcode == 0
    close([process], [pipe])  # a second time


def test_stopped_processes_are_killed(
    worker: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CLOSING", 0.2)
    process, pipe = worker
    os.kill(process.pid, signal.SIGSTOP)
    close([process], [pipe])
    assert process.exitcode == -signal.SIGKILL
