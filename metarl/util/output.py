"""Checks of output files before a long computation."""

import os
from pathlib import Path


def require_writable(path: Path) -> None:
    """Raise an OSError if a file cannot be written, and create its parent folder.

    Args:
        path: The file; it may exist.

    Raises:
        OSError: If the path is a folder, its parent cannot be created, or permission is denied.

    Example::

        require_writable(Path("runs/curves.png"))
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}: {error.filename}") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: permission denied")
