"""Holding a run folder: one process writes it, and only as long as it is the same folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from metarl.core.speed import processes


_held: dict[Path, int] = {}
"""Run folders that this process holds, and a descriptor of the lock in each."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a run folder for writing; the system frees it however the process ends.

    Raises:
        RuntimeError: If another process holds it.
    """
    if not processes.writes():
        yield
        return
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RuntimeError(
            f"{folder} is being written by another process; wait for it, or stop it"
        ) from None
    try:
        with (folder / "lock").open() as mine:
            _held[folder] = mine.fileno()
            yield
    finally:
        _held.pop(folder, None)
        lock.release()


def is_held(folder: Path) -> bool:
    """Say whether a folder is the one that :func:`holding` began with; True if it never did."""
    if folder not in _held:
        return True
    lock = folder / "lock"
    return lock.exists() and os.path.samestat(os.fstat(_held[folder]), lock.stat())


def require_held(folder: Path) -> None:
    """Make sure that a folder is the one that :func:`holding` began with, if it did.

    Whoever deletes it and begins another run of that name must not find lines of this one there.

    Raises:
        RuntimeError: If it was removed or replaced.
    """
    if not is_held(folder):
        raise RuntimeError(
            f"{folder} was removed or replaced while this run was writing it; the run has stopped, "
            "and what is there now was left as it is"
        )
