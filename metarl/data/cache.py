"""Decoded images as one file each in a cache folder, which may be deleted at any time."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metarl.data.images import Classes


FORMAT = "metarl-images-1"


def cache_folder() -> Path:
    """Return ``METARL_CACHE``, else ``XDG_CACHE_HOME/metarl``, else ``~/.cache/metarl``."""
    if own := os.environ.get("METARL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarl"


def fingerprint(*paths: Path) -> str:
    """Return a hash of the paths, sizes and modification times of files."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def cached(kind: str, source: dict[str, Any], make: Callable[[], Classes]) -> Classes:
    """Return what `make` returned when it was last called for the same source.

    The tensor of a cached result lies in the file and is read as it is used. A file that is
    damaged is made anew; a folder that cannot be written to costs the time, not the run.

    Args:
        kind: The first word of the file's name.
        source: Everything that the result depends on, as JSON values.
        make: Decodes the images.
    """
    key = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:20]
    path = cache_folder() / f"{kind}-{key}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError, TypeError, ValueError):
        with safe_open(path, "pt") as file:
            about, images = json.loads(file.metadata()[FORMAT]), file.get_tensor("images")
        if sum(about["counts"]) == len(images):
            return Classes(images, tuple(about["counts"]), tuple(about["names"]))
    classes = make()
    about = json.dumps({"counts": classes.counts, "names": classes.names})
    with contextlib.suppress(OSError, SafetensorError), replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file({"images": classes.images.contiguous()}, temporary, {FORMAT: about})
        temporary.chmod(mode)  # safetensors makes it private, and the folder may be shared
    return classes


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes `path` if the block ends well.

    Its name is its own, because runs that are started together make the same files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
