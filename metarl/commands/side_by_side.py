"""Commands side by side: each in its own process, with its part of the machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from queue import Queue
from typing import TypeVar

import torch

from metarl.runs import Stopped, StopSignal


Item = TypeVar("Item")
PROGRAM = (sys.executable, "-m", "metarl")


class AllStopped(Stopped):
    """Commands side by side were asked to stop, and did."""

    def __init__(self, number: int) -> None:
        """Name the signal."""
        name = signal.Signals(number).name
        Exception.__init__(self, f"stopped by {name}; the same command continues")
        self.number = number


class SideBySide:
    """Runs commands in processes, a number at a time; a signal stops them all."""

    def __init__(self, jobs: int) -> None:
        """Divide the machine among `jobs` processes."""
        self._places: Queue[dict[str, str]] = Queue()
        for place in divided(jobs):
            self._places.put(place)
        self._jobs, self._stop = jobs, StopSignal(self._terminate)
        self._running: set[subprocess.Popen[bytes]] = set()

    def map(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call `work`, which calls :meth:`execute`, on all items, each in a thread.

        Raises:
            AllStopped: If a signal came, after every process has ended.
        """
        with self._stop, ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(work, items))  # an error cancels what has not begun

    def execute(self, folder: Path, words: list[str]) -> None:
        """Run one command; its output is appended to FOLDER.log.

        Args:
            folder: The run folder that it writes.
            words: The command, without ``metarl``.

        Raises:
            RuntimeError: If it fails.
            AllStopped: If a signal came.
        """
        place, path = self._places.get(), folder.with_name(f"{folder.name}.log")
        try:
            code = None if self._stop.received else self._run([*PROGRAM, *words], place, path)
        finally:
            self._places.put(place)
        if self._stop.received:
            raise AllStopped(self._stop.received)
        if code:
            last = path.read_text().strip().splitlines()[-1:]
            raise RuntimeError(f"{folder} failed: {' '.join(last)} ({path} has the rest)")

    def _run(self, argv: list[str], variables: dict[str, str], path: Path) -> int:
        with path.open("ab") as log:
            process = subprocess.Popen(
                argv, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._running.add(process)
        if self._stop.received:  # since it was started
            process.terminate()
        code = process.wait()
        self._running.remove(process)
        return code

    def _terminate(self) -> None:
        """Ask all processes to write a checkpoint and end."""
        for process in list(self._running):
            process.terminate()


def divided(jobs: int) -> list[dict[str, str]]:
    """Return environment variables that give each of `jobs` processes its part of the machine."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    shared = {"OMP_NUM_THREADS": str(max(1, cores // jobs)), "LOCAL_WORLD_SIZE": str(jobs)}
    gpus = visible_gpus()
    places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    return [shared | places[i % len(places)] for i in range(jobs)]


def visible_gpus() -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in given.split(",")]
    return list(takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA reads it
