"""Output files: early checks of permissions, and writing that preserves old files on errors."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_writable(path: Path) -> None:
    """Create the parent folder of a file, and raise an OSError if the file cannot be written.

    Devices and pipes are rejected, because files are written to a temporary path and then moved.

    Args:
        path: Path of the file, which may already exist.

    Raises:
        OSError: If the path is a folder or a device, the parent folder cannot
            be created, or permission is denied.

    Example::

        require_writable(Path("runs/curves.png"))
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file. Choose a different path")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file. Choose a different path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror} ({error.filename}). Choose a different "
            "path"
        ) from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(
            f"{path} cannot be written: permission denied. Choose a different path"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move the file to `path` after the block.

    An existing file at `path` is unchanged if the block fails or the process is killed.

    Args:
        path: The file; the parent folder is created.

    Yields:
        A path with the suffix of `path`, which the block must write.

    Raises:
        OSError: If the file cannot be written or is empty; the message contains `path`.

    Example::

        with replacing(Path("runs/table.md")) as temporary:
            temporary.write_text("| steps | return |")
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not temporary.stat().st_size:
            raise OSError("the file is empty")  # the handler below adds the path
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error).strip().splitlines()[0]
        raise OSError(
            f"{path} cannot be written: {reason}. Check the permissions and the disk space, or "
            "choose a different path"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
