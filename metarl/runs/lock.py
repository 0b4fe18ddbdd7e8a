"""Locks of run folders: at most one process writes to a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from metarl.core.speed import processes


_held: dict[Path, int] = {}
"""File descriptors of the lock files of this process, by run folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for writing; the operating system releases the lock of a killed process.

    With several processes, only the first one locks the folder.

    Args:
        folder: The run folder.

    Raises:
        RuntimeError: If a different process has locked the folder.
    """
    if not processes.writes():
        yield
        return
    path = folder / "lock"
    try:
        with FileLock(path, timeout=0), path.open() as file:
            _held[folder] = file.fileno()
            try:
                yield
            finally:
                del _held[folder]
    except Timeout:
        raise RuntimeError(f"{folder} is locked by another process. Wait until it ends") from None


def is_held(folder: Path) -> bool:
    """Return whether a locked run folder still exists and was not replaced.

    A user may delete the folder of an active run and start a different run with the same name. The
    first run must then stop writing.

    Args:
        folder: The run folder.

    Returns:
        False if the folder was removed or replaced since it was locked. True if it was not, or if
        this process never locked it.
    """
    if folder not in _held:
        return True
    path = folder / "lock"
    return path.exists() and os.path.samestat(os.fstat(_held[folder]), path.stat())
