"""A cache for decoded images on disk.

The cache folder can be deleted at any time; the images are then decoded again. The least recently
used images are deleted if the cache exceeds its size limit.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metarl.data.images import Classes
from metarl.util import replacing


if sys.platform != "win32":
    import fcntl

FORMAT = "metarl-images-3"  # metadata key; increase the number when the file format changes
_used: dict[Path, int] = {}
"""Descriptors of the locked files that this process has loaded."""


def cache_folder() -> Path:
    """Return the folder for decoded images and downloads.

    The folder is ``$METARL_CACHE`` if this environment variable is set,
    otherwise ``$XDG_CACHE_HOME/metarl`` if ``XDG_CACHE_HOME`` is set,
    otherwise ``~/.cache/metarl``.
    """
    if own := os.environ.get("METARL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarl"


def fingerprint(*paths: Path) -> str:
    """Return one hash of the paths, sizes and modification times of all files."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def cached(kind: str, source: dict[str, Any], make: Callable[[], Classes]) -> Classes:
    """Load decoded images from the cache, or decode the images and write them to the cache.

    Images from the cache are memory-mapped: they are read from disk when they
    are used. A cache file that is damaged or does not match `source` is replaced.
    If the cache folder is not writable, the images are decoded but not cached.

    Args:
        kind: Name of the data set, used as the prefix of the cache file name.
        source: JSON-serializable values that determine the result, such as
            the image size (``"size"``) and the :func:`fingerprint` of the image files.
            Different values use different cache files.
        make: Function that decodes the images, called if the images are not in the cache.

    Returns:
        The decoded images.
    """
    key = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:20]
    path = cache_folder() / f"{kind}-{key}.safetensors"
    limit = size_limit()
    with contextlib.suppress(OSError, SafetensorError, KeyError, TypeError, ValueError):
        return _read(path, key, source.get("size"))
    classes = make()
    with contextlib.suppress(OSError, SafetensorError):
        _write(path, key, classes)
        _mark_used(path)
        delete_unused(path.parent, limit)
    return classes


def size_limit() -> float:
    """Return the maximum size of the cache in bytes.

    The limit is ``$METARL_CACHE_SIZE`` gigabytes, 50 if this environment variable is not set.

    Raises:
        ValueError: If the environment variable is not a number, or is negative.
    """
    text = os.environ.get("METARL_CACHE_SIZE") or "50"
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text) * 1e9
    raise ValueError(
        f"METARL_CACHE_SIZE must be a number of gigabytes, at least 0, got {text!r}. Set the "
        "environment variable to a number such as 50"
    )


def delete_unused(folder: Path, limit: float) -> None:
    """Delete the least recently used images until the cache is not larger than a limit.

    Images that a process has loaded are kept until this process ends. Downloads are kept, too.

    Args:
        folder: The cache folder.
        limit: Maximum total size in bytes.
    """
    stats = {path: path.stat() for path in folder.glob("*.safetensors")}
    total = sum(stat.st_size for stat in stats.values())
    for path, stat in sorted(stats.items(), key=lambda item: item[1].st_mtime):
        if total > limit and _delete(path):
            total -= stat.st_size


def _read(path: Path, key: str, size: int | None) -> Classes:
    """Read a cache file.

    Args:
        path: The file.
        key: Hash of the source, which must be that in the file.
        size: Height and width of the images; None accepts all sizes.

    Raises:
        ValueError: If the contents are invalid; for other damage, any exception in :func:`cached`.
    """
    _mark_used(path)  # before the file is opened, so that it is not deleted in between
    with safe_open(path, "pt") as file:
        about, images = json.loads(file.metadata()[FORMAT]), file.get_tensor("images")
    counts, names = tuple(about["counts"]), tuple(about["names"])
    valid = (
        about["digest"] == _digest(key, counts, names, images.shape),
        images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3),
        tuple(images.shape[2:]) == (size or images.shape[2],) * 2,
        all(type(count) is int and count > 0 for count in counts) and sum(counts) == len(images),
        all(type(name) is str for name in names) and len(set(names)) == len(names) == len(counts),
    )
    if not all(valid):
        raise ValueError(f"{path} has invalid contents")
    return Classes(images, counts, names)


def _write(path: Path, key: str, classes: Classes) -> None:
    _, counts, names = classes
    digest = _digest(key, counts, names, classes.images.shape)
    about = {"counts": counts, "names": names, "digest": digest}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file({"images": classes.images.contiguous()}, temporary, {FORMAT: json.dumps(about)})
        temporary.chmod(mode)  # safetensors makes the file private, but the cache may be shared
    for leftover in path.parent.glob(f".{path.stem}.*"):  # of a process that was killed
        leftover.unlink(missing_ok=True)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _mark_used(path: Path) -> None:
    """Record that the file was used now, and lock the file until this process ends.

    Several processes can lock a file at the same time. On Windows, there are no such locks; a file
    in use cannot be deleted there.

    Raises:
        OSError: If the file does not exist.
    """
    if sys.platform != "win32":
        file = os.open(path, os.O_RDONLY)
        if path in _used:
            os.close(_used.pop(path))
        _used[path] = file
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with contextlib.suppress(OSError):  # a shared cache that is read-only
        os.utime(path)


def _delete(path: Path) -> bool:
    """Delete a file unless a process uses it; return whether the file was deleted."""
    try:
        with path.open("rb") as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # in use, or a different process has deleted the file
        return False
    return True
