"""Images by class in one uint8 tensor: reading them, choosing classes, splitting classes."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from metarl.util import optional


SPLIT_SEED = 0
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)
"""What Pillow and zipfile raise at a damaged file: a broken PNG is a SyntaxError."""


class Classes(NamedTuple):
    """Images sorted by class.

    Attributes:
        images: All of them on the CPU, those of one class next to each other.
        counts: Number of images of each class, in order.
        names: Name of each class.
    """

    images: UInt8[Tensor, "images channels height width"]
    counts: tuple[int, ...]
    names: tuple[str, ...]


class Splits(NamedTuple):
    """Classes to meta-train on, to choose between runs by, and to report on: none is in two."""

    train: Classes
    validation: Classes
    test: Classes

    def digest(self) -> str:
        """Return what tells these splits from others: a hash of the names of their classes."""
        names = json.dumps([classes.names for classes in self])
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def pillow(module: str) -> Any:
    """Return a module of Pillow: ``"Image"``.

    Raises:
        ImportError: If Pillow is missing; the message has the command.
    """
    return optional.require(f"PIL.{module}", extra="vision", purpose="image files")


def find_data(root: Path | None, folder: str, *, holds: Callable[[Path], bool]) -> Path | None:
    """Return the folder with the data: `folder` under the root, or the root itself.

    Args:
        root: Where to look; ``None`` means the environment variable ``METARL_DATA``.
        folder: The name that the data usually go by: ``omniglot``.
        holds: Whether the data are in a folder.

    Raises:
        FileNotFoundError: If the root is no folder.
    """
    given = root or os.environ.get("METARL_DATA")
    if not given:
        return None
    base = Path(given).expanduser()
    if not base.is_dir():
        origin = "METARL_DATA" if root is None else "--data-root"
        raise FileNotFoundError(
            f"{origin} is {base}, which is no folder; name the one that contains {folder}/"
        )
    return next((place for place in (base / folder, base) if holds(place)), None)


def read_images(
    files: Mapping[str, Sequence[str]],
    read: Callable[[str], bytes],
    *,
    convert: Callable[[Any], Any],
    shape: tuple[int, int, int],
) -> Classes:
    """Decode image files one by one into one tensor, so that memory holds them once.

    Args:
        files: The names of the files of each class.
        read: Returns the bytes of a file.
        convert: Maps a Pillow image to one of the right mode and size.
        shape: Channels, height and width after `convert`.

    Raises:
        ValueError: If a file is no image; the message names it.
    """
    opened = pillow("Image").open
    names = [name for group in files.values() for name in group]
    images = torch.empty((len(names), *shape), dtype=torch.uint8)
    for row, name in zip(images.numpy(), names, strict=True):
        try:
            pixels = np.asarray(convert(opened(io.BytesIO(read(name)))))
        except UNREADABLE as error:
            raise ValueError(f"{name} cannot be read as an image ({error}); replace it") from None
        row[:] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Classes(images, tuple(len(group) for group in files.values()), tuple(files))


@contextlib.contextmanager
def opened(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Open a zip file or a folder: the names of the files in it, and what reads one of them.

    Raises:
        ValueError: If a zip file is not whole.
    """
    if source.is_dir():
        files = [path.relative_to(source).as_posix() for path in source.rglob("*")]
        yield files, lambda name: (source / name).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source} is no whole zip file ({error}); get it again") from None
    with archive:
        yield archive.namelist(), archive.read


def join(*parts: Classes) -> Classes:
    """Return the classes of all parts, one part after the other."""
    images, counts, names = zip(*parts, strict=True)
    return Classes(torch.cat(images), sum(counts, ()), sum(names, ()))


def select(classes: Classes, names: Iterable[str]) -> Classes:
    """Return the named classes, in the order that they have in `classes`."""
    wanted = set(names)
    chosen = torch.tensor([name in wanted for name in classes.names])
    rows = chosen.repeat_interleave(torch.tensor(classes.counts))
    kept = [(c, n) for c, n in zip(classes.counts, classes.names, strict=True) if n in wanted]
    return Classes(classes.images[rows], tuple(c for c, _ in kept), tuple(n for _, n in kept))


def require_disjoint(parts: Mapping[str, Iterable[str]], *, hint: str) -> None:
    """Make sure that no class is in two parts.

    Raises:
        ValueError: If one is; the message ends with `hint`.
    """
    home: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name in home:
                raise ValueError(f"class {name!r} is in {home[name]} and in {part}; {hint}")
            home[name] = part


def shuffled(names: Iterable[str]) -> list[str]:
    """Return names in an order that depends on nothing but the names."""
    ordered = sorted(names)
    # RandomState is old, but its numbers are the same in every version of numpy (NEP 19).
    return [ordered[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(ordered))]


def split_classes(classes: Classes) -> Splits:
    """Split 64 : 16 : 20, as miniImageNet is split; at least one class each."""
    names = shuffled(classes.names)
    test = max(1, round(0.2 * len(names)))
    rest = len(names) - test
    train = rest - max(1, round(0.16 * len(names)))
    return Splits(
        *(select(classes, part) for part in (names[:train], names[train:rest], names[rest:]))
    )
