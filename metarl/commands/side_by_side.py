"""Parallel execution of commands, in subprocesses that share the CPU cores and GPUs."""

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
    """Exception that is raised after a signal has stopped all parallel commands."""

    def __init__(self, number: int) -> None:
        """Create the exception for the signal with the number `number`."""
        name = signal.Signals(number).name
        Exception.__init__(self, f"stopped by {name}. Run the same command to continue")
        self.number = number


class SideBySide:
    """A runner for parallel ``metarl`` commands; SIGINT or SIGTERM stops all commands."""

    def __init__(self, jobs: int) -> None:
        """Create a runner that executes up to `jobs` commands at a time."""
        self._places: Queue[dict[str, str]] = Queue()
        for place in divided(jobs):
            self._places.put(place)
        self._jobs, self._stop = jobs, StopSignal(self._terminate)
        self._running: set[subprocess.Popen[bytes]] = set()

    def map(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call a function for each item, with up to `jobs` threads in parallel.

        Args:
            work: Function that runs commands for an item with :meth:`execute`.
            items: Arguments for `work`, one per call.

        Raises:
            AllStopped: If a signal was received, after all subprocesses have ended.
        """
        with self._stop, ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(work, items))  # an error cancels the items that have not started

    def execute(self, folder: Path, words: list[str]) -> None:
        """Run a command in a subprocess, and append the output to the file FOLDER.log.

        Args:
            folder: Run folder of the command. For example, the log file of
                ``runs/a`` is ``runs/a.log``.
            words: Command-line arguments after ``metarl``.

        Raises:
            RuntimeError: If the command fails; the message contains the last line of output.
            AllStopped: If a signal was received.
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
            raise RuntimeError(f"{folder} failed: {' '.join(last)}. The full output is in {path}")

    def _run(self, argv: list[str], variables: dict[str, str], path: Path) -> int:
        with path.open("ab") as log:
            process = subprocess.Popen(
                argv, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._running.add(process)
        if self._stop.received:  # a signal during the start of the process
            process.terminate()
        code = process.wait()
        self._running.remove(process)
        return code

    def _terminate(self) -> None:
        """Send SIGTERM to all subprocesses, which then save a checkpoint and end."""
        for process in list(self._running):
            process.terminate()


def divided(jobs: int) -> list[dict[str, str]]:
    """Return environment variables for each of `jobs` parallel processes.

    The CPU cores are divided equally: ``OMP_NUM_THREADS`` is the number of
    cores per process, and ``LOCAL_WORLD_SIZE`` is the number of processes.
    GPUs are assigned in turn, so that ``CUDA_VISIBLE_DEVICES`` contains one
    GPU per process. This variable is not set on machines without GPUs.

    Returns:
        One dictionary of environment variables per process.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    shared = {"OMP_NUM_THREADS": str(max(1, cores // jobs)), "LOCAL_WORLD_SIZE": str(jobs)}
    gpus = visible_gpus()
    places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    return [shared | places[i % len(places)] for i in range(jobs)]


def visible_gpus() -> list[str]:
    """Return the GPUs visible to this process, in the format of ``CUDA_VISIBLE_DEVICES``."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in given.split(",")]
    return list(
        takewhile(lambda name: name not in ("", "-1"), names)
    )  # CUDA ignores the entries after an invalid one
