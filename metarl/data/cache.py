"""A cache of decoded images, with one file per data set. The folder can be deleted at any time."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metarl.data.images import Classes
from metarl.util import replacing


FORMAT = "metarl-images-1"  # metadata key; increase the number when the file format changes


def cache_folder() -> Path:
    """Return the cache folder: ``METARL_CACHE``, ``XDG_CACHE_HOME/metarl`` or ``~/.cache/metarl``.

    The first of the two environment variables that is set takes precedence.
    """
    if own := os.environ.get("METARL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarl"


def fingerprint(*paths: Path) -> str:
    """Return a hash of the paths, sizes and modification times of files."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def cached(kind: str, source: dict[str, Any], make: Callable[[], Classes]) -> Classes:
    """Return decoded images from the cache, or decode and cache them.

    The returned tensor is memory-mapped, so images are read from disk when they are used. A damaged
    cache file is replaced. If the cache folder is not writable, the images are returned without
    being cached.

    Args:
        kind: Prefix of the file name.
        source: All values that the result depends on, as JSON-serializable values.
        make: Function that decodes the images.
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
        temporary.chmod(mode)  # safetensors makes the file private, but the cache may be shared
    return classes
