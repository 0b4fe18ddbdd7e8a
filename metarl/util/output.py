"""Files that a command is asked to write: looked at before the work, not after it."""

import os
from pathlib import Path


def require_writable(path: Path) -> None:
    """Make sure that a file can be written, and make the folder that it goes into.

    Raises:
        OSError: If it cannot; the message names the file and says why.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}: {error.filename}") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: permission denied")
