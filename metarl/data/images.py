"""Labeled images in one uint8 tensor: finding, reading, selecting and splitting classes."""

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
"""An image file in a folder or in a zip archive."""

SPLIT_SEED = 0
# Exceptions of Pillow and zipfile for damaged files; a damaged PNG raises a SyntaxError.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)


class Classes(NamedTuple):
    """Images sorted by class.

    Attributes:
        images: Images of all classes on the CPU; the images of a class are contiguous.
        counts: Number of images of each class, in order.
        names: Name of each class, in order.

    Example::

        >>> from metarl.data import load_images
        >>> train = load_images("glyphs").train
        >>> len(train.images) == sum(train.counts) and len(train.counts) == len(train.names)
        True
    """

    images: UInt8[Tensor, "images channels height width"]
    counts: tuple[int, ...]
    names: tuple[str, ...]


class Splits(NamedTuple):
    """Disjoint sets of classes for meta-training, validation and test.

    Validation classes are for choosing between runs and settings, test classes for final results.

    Attributes:
        train: Classes for meta-training.
        validation: Classes for validation.
        test: Classes for the final evaluation.

    Example::

        >>> from metarl.data import load_images
        >>> train, validation, test = load_images("glyphs")
        >>> set(train.names) & set(test.names)
        set()
    """

    train: Classes
    validation: Classes
    test: Classes

    def digest(self) -> str:
        """Return a hash of the class names of all splits, used to detect changed data."""
        names = json.dumps([classes.names for classes in self])
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def pillow(module: str) -> Any:
    """Import and return a module of Pillow.

    Args:
        module: Name of the module, such as ``"Image"``.

    Raises:
        ImportError: If Pillow is not installed. The message contains the install command.
    """
    return optional.require(f"PIL.{module}", extra="vision", purpose="image files")


def find_files(data_root: Path | None, folder: str, names: Sequence[tuple[str, ...]]) -> list[Path]:
    """Find the files of a data set in a subfolder of the root, or in the root itself.

    Args:
        data_root: The root; defaults to the environment variable ``METARL_DATA``.
        folder: Name of the subfolder, such as ``omniglot``.
        names: Possible names of each file, the preferred name first.

    Returns:
        One path per element of `names`, or an empty list if no file exists or no root is set.

    Raises:
        FileNotFoundError: If the root is not a folder, or only some of the files exist.
    """
    root = data_root or os.environ.get("METARL_DATA")
    if not root:
        return []
    base = Path(root).expanduser().resolve()
    if not base.is_dir():
        origin = "METARL_DATA" if data_root is None else "data_root"
        raise FileNotFoundError(
            f"{origin} is not a folder: expected the folder that contains {folder}/, got {base}"
        )
    for place in (base / folder, base):
        found = [[place / n for n in known if (place / n).exists()] for known in names]
        if all(found):
            return [paths[0] for paths in found]
        if any(found):
            missing = " or ".join(names[found.index([])])
            raise FileNotFoundError(f"{place} is incomplete: {missing} is missing")
    return []


@contextlib.contextmanager
def open_image(file: ImageFile) -> Iterator[Any]:
    """Open an image file as a Pillow image.

    Raises:
        ValueError: If the image cannot be read, either here or in the block.
    """
    try:
        with pillow("Image").open(io.BytesIO(file.read_bytes())) as picture:
            yield picture
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as an image ({error}). Replace it") from None


def read_images(
    files: Mapping[str, Sequence[ImageFile]],
    convert: Callable[[Any], Any],
    *,
    channels: int,
    size: int,
) -> Classes:
    """Decode image files into one tensor, one file at a time to save memory.

    Args:
        files: Files of each class, by class name.
        convert: Function that converts a Pillow image to the right mode and size.
        channels: Number of channels after `convert`.
        size: Height and width after `convert`.

    Raises:
        ValueError: If a file is not an image. The message names the file.
    """
    everything = [file for group in files.values() for file in group]
    images = torch.empty((len(everything), channels, size, size), dtype=torch.uint8)
    for row, file in zip(images.numpy(), everything, strict=True):
        with open_image(file) as picture:
            pixels = np.asarray(convert(picture))
        row[:] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Classes(images, tuple(map(len, files.values())), tuple(files))


def to_square(picture: Any, mode: str, size: int) -> Any:
    """Convert a picture to a Pillow mode and resize it to a square by bilinear interpolation."""
    return picture.convert(mode).resize((size, size), pillow("Image").Resampling.BILINEAR)


def join(*parts: Classes) -> Classes:
    """Concatenate several sets of classes."""
    images, counts, names = zip(*parts, strict=True)
    return Classes(torch.cat(images), sum(counts, ()), sum(names, ()))


def select(classes: Classes, names: Iterable[str]) -> Classes:
    """Return the classes with the given names, in the order of `classes`."""
    names = set(names)
    selected = [name in names for name in classes.names]
    rows = torch.tensor(selected).repeat_interleave(torch.tensor(classes.counts))
    counts = tuple(compress(classes.counts, selected))
    return Classes(classes.images[rows], counts, tuple(compress(classes.names, selected)))


def require_disjoint(parts: Mapping[Any, Iterable[str]], *, hint: str) -> None:
    """Raise a ValueError if a class is in two parts.

    Args:
        parts: Class names of each part, by name of the part.
        hint: Last sentence of the error message.
    """
    for (one, names), (other, others) in combinations(parts.items(), 2):
        if both := sorted({*names} & {*others}):
            raise ValueError(f"class {both[0]!r} is in {one} and in {other}. {hint}")


def shuffled(names: Iterable[str]) -> list[str]:
    """Return the names in a random order that depends only on the set of names."""
    ordered = sorted(names)
    # The random numbers of RandomState are the same in every version of NumPy (NEP 19).
    return [ordered[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(ordered))]


def divide(classes: Classes, *parts: Iterable[str]) -> Splits:
    """Return the splits with the given class names for training, validation and test."""
    return Splits(*(select(classes, names) for names in parts))


def hold_out_tenth(names: list[str]) -> tuple[list[str], list[str]]:
    """Split names into training names and the last tenth (at least one) for validation."""
    last = len(names) - max(1, round(0.1 * len(names)))
    return names[:last], names[last:]


def split_classes(classes: Classes) -> Splits:
    """Split classes randomly 64 : 16 : 20 like miniImageNet, with at least one class per split."""
    names = shuffled(classes.names)
    rest = len(names) - max(1, round(0.2 * len(names)))
    train = rest - max(1, round(0.16 * len(names)))
    return divide(classes, names[:train], names[train:rest], names[rest:])
