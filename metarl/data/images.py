"""Images by class in one uint8 tensor: reading them, choosing classes, splitting classes."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, compress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from metarl.util import optional


ImageFile: TypeAlias = Path | zipfile.Path
"""A file in a folder or in a zip file."""

SPLIT_SEED = 0
# What Pillow and zipfile raise at a damaged file: a broken PNG is a SyntaxError.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)


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


def find_files(data_root: Path | None, folder: str, names: Sequence[tuple[str, ...]]) -> list[Path]:
    """Return the files of a data set, in `folder` under the root or in the root itself.

    Args:
        data_root: Where to look; ``None`` means the environment variable ``METARL_DATA``.
        folder: The usual name of the data set's folder: ``omniglot``.
        names: The names that each file may have, the preferred one first.

    Returns:
        A path for each element of `names`; no paths if there are none of the files.

    Raises:
        FileNotFoundError: If the root is no folder, or only some of the files are there.
    """
    given = data_root or os.environ.get("METARL_DATA")
    if not given:
        return []
    base = Path(given).expanduser().resolve()
    if not base.is_dir():
        origin = "METARL_DATA" if data_root is None else "data_root"
        raise FileNotFoundError(
            f"{origin} is no folder: expected the one that contains {folder}/, got {base}"
        )
    for place in (base / folder, base):
        found = [[place / n for n in known if (place / n).exists()] for known in names]
        if all(found):
            return [paths[0] for paths in found]
        if any(found):
            missing = " or ".join(names[found.index([])])
            raise FileNotFoundError(f"{place} is not complete: it lacks {missing}")
    return []


@contextlib.contextmanager
def open_image(file: ImageFile) -> Iterator[Any]:
    """Open an image file as a Pillow image.

    Raises:
        ValueError: If it is damaged, also where the block finds that out; the message names it.
    """
    try:
        with pillow("Image").open(io.BytesIO(file.read_bytes())) as picture:
            yield picture
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as an image ({error}); replace it") from None


def read_images(
    files: Mapping[str, Sequence[ImageFile]],
    convert: Callable[[Any], Any],
    *,
    channels: int,
    size: int,
) -> Classes:
    """Decode image files one by one into one tensor, so that memory holds them once.

    Args:
        files: The files of each class.
        convert: Maps a Pillow image to one of the right mode and size.
        channels: Channels after `convert`.
        size: Height and width after `convert`.

    Raises:
        ValueError: If a file is no image; the message names it.
    """
    everything = [file for group in files.values() for file in group]
    images = torch.empty((len(everything), channels, size, size), dtype=torch.uint8)
    for row, file in zip(images.numpy(), everything, strict=True):
        with open_image(file) as picture:
            pixels = np.asarray(convert(picture))
        row[:] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Classes(images, tuple(map(len, files.values())), tuple(files))


def resize_square(picture: Any, mode: str, size: int) -> Any:
    """Return a picture in another mode and as a square, by bilinear interpolation."""
    return picture.convert(mode).resize((size, size), pillow("Image").Resampling.BILINEAR)


def join(*parts: Classes) -> Classes:
    """Return the classes of all parts, one part after the other."""
    images, counts, names = zip(*parts, strict=True)
    return Classes(torch.cat(images), sum(counts, ()), sum(names, ()))


def select(classes: Classes, names: Iterable[str]) -> Classes:
    """Return the named classes, in the order that they have in `classes`."""
    wanted = set(names)
    chosen = [name in wanted for name in classes.names]
    rows = torch.tensor(chosen).repeat_interleave(torch.tensor(classes.counts))
    counts = tuple(compress(classes.counts, chosen))
    return Classes(classes.images[rows], counts, tuple(compress(classes.names, chosen)))


def require_disjoint(parts: Mapping[Any, Iterable[str]], *, hint: str) -> None:
    """Make sure that no class is in two parts.

    Raises:
        ValueError: If one is; the message ends with `hint`.
    """
    for (one, names), (other, others) in combinations(parts.items(), 2):
        if both := sorted({*names} & {*others}):
            raise ValueError(f"class {both[0]!r} is in {one} and in {other}; {hint}")


def shuffled(names: Iterable[str]) -> list[str]:
    """Return names in an order that depends on nothing but the names."""
    ordered = sorted(names)
    # RandomState is old, but its numbers are the same in every version of numpy (NEP 19).
    return [ordered[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(ordered))]


def divide(classes: Classes, *parts: Iterable[str]) -> Splits:
    """Return the classes named in each of three parts: training, validation, test."""
    return Splits(*(select(classes, names) for names in parts))


def hold_out_tenth(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Divide names in two: the last tenth, at least one, serves for validation."""
    last = len(names) - max(1, round(0.1 * len(names)))
    return names[:last], names[last:]


def split_classes(classes: Classes) -> Splits:
    """Split 64 : 16 : 20, as miniImageNet is split; at least one class each."""
    names = shuffled(classes.names)
    rest = len(names) - max(1, round(0.2 * len(names)))
    train = rest - max(1, round(0.16 * len(names)))
    return divide(classes, names[:train], names[train:rest], names[rest:])
