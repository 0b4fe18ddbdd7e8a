"""Locks of run folders: at most one process writes to a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from metarl.core.speed import processes


_held: dict[Path, int] = {}
"""File descriptors of the lock files that this process has locked, by run folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for writing while the context is active.

    The operating system releases the lock if the process is killed. In distributed training, only
    rank 0 locks the folder; on all other ranks, this does nothing.

    Args:
        folder: The run folder.

    Raises:
        RuntimeError: If another process has locked the folder.
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
        raise RuntimeError(
            f"{folder} is locked by another process. Wait until that process ends"
        ) from None


def is_held(folder: Path) -> bool:
    """Return whether a locked run folder still exists and was not replaced.

    A user may delete the folder of an active run and start a different run with the same name. The
    first run must then stop writing.

    Args:
        folder: The run folder.

    Returns:
        False if the folder was removed or replaced since this process locked the folder, otherwise
        True. If this process did not lock the folder, the result is always True.
    """
    if folder not in _held:
        return True
    path = folder / "lock"
    return path.exists() and os.path.samestat(os.fstat(_held[folder]), path.stat())
