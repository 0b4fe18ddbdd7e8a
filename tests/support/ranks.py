"""Processes like those of ``torchrun``, forked from a process with all imports."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metarl.commands import cli


PRELOADED = [
    *(f"metarl.experiments.{name}"
      for name in ("meta_rl", "regression", "fewshot")),
    "metarl.envs.navigation", "tyro", "torch._dynamo",
]  # fmt: skip


class Ranks(NamedTuple):
    """Started processes and their output files."""

    processes: list[Any]
    outputs: list[Path]

    def join(self) -> list[int]:
        """Wait for all processes and return their exit codes."""
        for process in self.processes:
            process.join(timeout=120)
        return [process.exitcode for process in self.processes]

    def errors(self) -> list[str]:
        """Return the error lines of all processes."""
        texts = [path.read_text() for path in self.outputs]
        return [line for text in texts for line in text.splitlines() if "error:" in line]


def processes() -> Any:
    """Return a multiprocessing context with fast process starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start(size: int, folder: Path, function: Callable[..., None], *args: Any) -> Ranks:
    """Start `function(*args)` in `size` processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    outputs = [folder / f"{size}-{rank}-{port}.txt" for rank in range(size)]
    started = [
        processes().Process(target=_as_rank, args=(rank, size, port, outputs[rank], function, args))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    return Ranks(started, outputs)


def metarl(words: list[Any]) -> None:
    """Run a command line."""
    cli.main([str(word) for word in words])


def _as_rank(
    rank: int, size: int, port: int, output: Path, function: Callable[..., None], args: Any
) -> None:
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    function(*args)


def lines(folder: Path) -> int:
    """Return the number of lines in the run's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(started: Iterable[Any], folder: Path, more: int) -> None:
    """Wait until a run has written this number of additional lines, or a process has ended."""
    goal = lines(folder) + more
    while lines(folder) < goal and all(process.is_alive() for process in started):
        time.sleep(0.002)
