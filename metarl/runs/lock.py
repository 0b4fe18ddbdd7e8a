"""Holding a run folder: one process writes it, and only as long as it is the same folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from metarl.core.speed import processes


_held: dict[Path, int] = {}
"""Descriptors of the lock files in the run folders that this process holds."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a run folder for writing; the system releases it however the process ends.

    Of several processes that share a run, only the first holds its folder.

    Raises:
        RuntimeError: If another process holds it.
    """
    if not processes.writes():
        yield
        return
    path = folder / "lock"
    try:
        with FileLock(path, timeout=0), path.open() as mine:
            _held[folder] = mine.fileno()
            try:
                yield
            finally:
                del _held[folder]
    except Timeout:
        raise RuntimeError(f"{folder} is being written by another process; wait for it") from None


def is_held(folder: Path) -> bool:
    """Return whether a folder still is the one that :func:`holding` locked.

    If somebody deletes it and starts another run of that name, no line of this run may be added.

    Returns:
        False if it was removed or replaced since; True also if this process never held it.
    """
    if folder not in _held:
        return True
    path = folder / "lock"
    return path.exists() and os.path.samestat(os.fstat(_held[folder]), path.stat())
