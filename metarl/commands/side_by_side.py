"""Commands side by side: each in a process of its own, with its part of the machine."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from queue import Queue
from types import FrameType
from typing import TypeVar

import torch

from metarl.runs.stopping import SIGNALS, Stopped


Item = TypeVar("Item")
PROGRAM = (sys.executable, "-m", "metarl")


class AllStopped(Stopped):
    """Commands side by side were asked to stop, and did."""

    def __init__(self, number: int) -> None:
        """Say what goes on with them."""
        name = signal.Signals(number).name
        Exception.__init__(self, f"stopped by {name}; the same command goes on")
        self.number = number


class SideBySide:
    """Runs commands in processes, a number at a time; a signal stops them all."""

    def __init__(self, jobs: int) -> None:
        """Divide the machine."""
        self._places: Queue[dict[str, str]] = Queue()
        for place in divided(jobs):
            self._places.put(place)
        self._jobs, self._ended = jobs, False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._changing = threading.Lock()

    def map(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Do work that calls :meth:`execute` on all items, each in a thread.

        Raises:
            AllStopped: If a signal came, after every process has ended.
        """
        with self._signals(), ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(work, items))  # an error cancels what has not begun

    def execute(self, folder: Path, words: list[str]) -> None:
        """Run one command; what it prints goes into FOLDER.log.

        Raises:
            RuntimeError: If it fails.
        """
        place, path = self._places.get(), folder.with_name(f"{folder.name}.log")
        try:
            code = self._wait_for([*PROGRAM, *words], os.environ | place, path)
        finally:
            self._places.put(place)
        if code:
            last = path.read_text().strip().splitlines()[-1:]
            raise RuntimeError(f"{folder} failed: {' '.join(last)} ({path} has the rest)")

    def _wait_for(self, argv: list[str], variables: dict[str, str], path: Path) -> int:
        with path.open("ab") as log:
            with self._changing:
                if self._ended:
                    raise RuntimeError("nothing is started after a signal")
                process = subprocess.Popen(
                    argv, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    process_group=0,  # Ctrl-C would reach it twice: a second signal stops at once
                )  # fmt: skip
                self._running.add(process)
            code = process.wait()
            with self._changing:
                self._running.remove(process)
        return code

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Hear signals, where this thread can; what is ignored, as by nohup, stays so."""
        heard = [n for n in (*SIGNALS, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
        if threading.current_thread() is not threading.main_thread():
            heard = []
        before = {number: signal.signal(number, self._stop) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Ask all processes to write a checkpoint and end."""
        del frame
        with self._changing:  # held by other threads alone, and briefly
            first, self._ended = not self._ended, True
            for process in self._running if first else ():
                process.terminate()
        if first:
            print("\nstopping all runs at their next checkpoints", file=sys.stderr)
            raise AllStopped(number)


def divided(jobs: int) -> list[dict[str, str]]:
    """Return environment variables that give each of some processes its part of the machine."""
    threads, gpus = max(1, available_cores() // jobs), visible_gpus()
    shared = {"OMP_NUM_THREADS": str(threads), "LOCAL_WORLD_SIZE": str(jobs)}
    own = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(jobs)]
    return [shared | gpu for gpu in own]


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in given.split(",")]
    return list(takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA reads it
