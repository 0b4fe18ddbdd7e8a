"""Functions that find and decode image files, and that select and split classes of images."""

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, compress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from metarl.util import damage, optional


SPLIT_SEED = 0
# Exceptions of Pillow and zipfile for damaged files; a damaged PNG raises a SyntaxError.
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@runtime_checkable
class ImageFile(Protocol):
    """An image file, such as a path in a folder or in a zip archive; its text is used in errors."""

    def read_bytes(self) -> bytes:
        """Return the contents of the file."""
        ...


class Classes(NamedTuple):
    """Images of several classes in one tensor, sorted by class.

    Attributes:
        images: uint8 images on the CPU, shape (images, channels, height,
            width). The images of each class are contiguous.
        counts: Number of images per class, in the order of the images.
        names: Class names, in the order of the images.

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

    Use the validation classes to choose settings and runs, and the test
    classes only for final results.

    Attributes:
        train: Classes for meta-training.
        validation: Classes for model selection.
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
        """Return a hash of the class names in all splits, used to detect changed splits."""
        names = json.dumps([classes.names for classes in self])
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def pillow(module: str) -> Any:
    """Import and return a Pillow module.

    Args:
        module: Module name without the package, such as ``"Image"``.

    Raises:
        ImportError: If Pillow is not installed. The message contains the install command.
    """
    return optional.require(f"PIL.{module}", extra="vision", purpose="image files")


def find_files(data_root: Path | None, folder: str, names: Sequence[tuple[str, ...]]) -> list[Path]:
    """Find the files of a data set in a subfolder of the root folder or in the root folder itself.

    Args:
        data_root: Root folder; defaults to the environment variable ``METARL_DATA``.
        folder: Name of the subfolder, such as ``omniglot``.
        names: Alternative names for each file, the preferred name first.

    Returns:
        One path per element of `names`. The list is empty if none of the
        files exists, or if `data_root` is ``None`` and ``METARL_DATA`` is not
        set.

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
            raise FileNotFoundError(
                f"{place} is incomplete: {missing} is missing. Add the missing file or folder"
            )
    return []


@contextlib.contextmanager
def open_image(file: ImageFile) -> Iterator[Any]:
    """Open an image file in a ``with`` statement and yield the Pillow image.

    Args:
        file: Path of the file, in a folder or in a zip archive.

    Raises:
        ValueError: If the image cannot be opened, or cannot be decoded in the ``with`` block.
    """
    image = pillow("Image")
    try:
        # Pillow warns about large images, without their names, and raises at twice this size.
        with (
            warnings.catch_warnings(action="ignore", category=image.DecompressionBombWarning),
            image.open(io.BytesIO(file.read_bytes())) as picture,
        ):
            yield picture
    except (*UNREADABLE, image.DecompressionBombError) as error:
        reason = re.sub(r" <_io\S+ object at \w+>", "", damage(Path(str(file)), error))
        raise ValueError(
            f"{file} cannot be read as an image ({reason}). Replace the file"
        ) from None


def read_images(
    files: Mapping[str, Sequence[ImageFile]],
    convert: Callable[[Any], Any],
    *,
    channels: int,
    size: int,
) -> Classes:
    """Decode image files.

    Files are opened one at a time to save memory.

    Args:
        files: Image files by class name.
        convert: Function that converts a Pillow image to the mode and size of the result.
        channels: Number of channels of the converted images.
        size: Height and width of the converted images in pixels.

    Returns:
        One class per entry of `files`, in the same order. The images are stored in one uint8 tensor
        of shape (images, channels, size, size).

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
    """Return a Pillow image as a square image in a given mode, with bilinear interpolation.

    The aspect ratio is not preserved.

    Args:
        picture: The Pillow image.
        mode: Pillow mode, such as ``"RGB"``.
        size: Height and width of the result in pixels.
    """
    return picture.convert(mode).resize((size, size), pillow("Image").Resampling.BILINEAR)


def join(*parts: Classes) -> Classes:
    """Return one :class:`Classes` with the classes of all arguments, in order."""
    images, counts, names = zip(*parts, strict=True)
    return Classes(torch.cat(images), sum(counts, ()), sum(names, ()))


def select(classes: Classes, names: Iterable[str]) -> Classes:
    """Return only the classes with the given names, in the order of `classes`."""
    names = set(names)
    selected = [name in names for name in classes.names]
    rows = torch.tensor(selected).repeat_interleave(torch.tensor(classes.counts))
    counts = tuple(compress(classes.counts, selected))
    return Classes(classes.images[rows], counts, tuple(compress(classes.names, selected)))


def require_disjoint(parts: Mapping[Any, Iterable[str]], *, hint: str) -> None:
    """Raise a ``ValueError`` if two parts of a data set contain the same class.

    Args:
        parts: Class names in each part, by the name of the part.
        hint: Next step for the user, appended to the error message.
    """
    for (one, names), (other, others) in combinations(parts.items(), 2):
        if both := sorted({*names} & {*others}):
            raise ValueError(f"class {both[0]!r} is in {one} and in {other}. {hint}")


def shuffled(names: Iterable[str]) -> list[str]:
    """Return the names in a fixed random order, which does not depend on the order of `names`."""
    ordered = sorted(names)
    # The random numbers of RandomState are the same in every version of NumPy (NEP 19).
    return [ordered[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(ordered))]


def divide(classes: Classes, *parts: Iterable[str]) -> Splits:
    """Return the training, validation and test classes, selected by name.

    Args:
        classes: All classes.
        parts: Names of the training, validation and test classes, as three arguments.
    """
    return Splits(*(select(classes, names) for names in parts))


def hold_out_tenth(names: list[str]) -> tuple[list[str], list[str]]:
    """Split names into training names and validation names.

    The last tenth of the names, but at least one name, is used for validation.

    Returns:
        ``(training names, validation names)``.
    """
    last = len(names) - max(1, round(0.1 * len(names)))
    return names[:last], names[last:]


def split_classes(classes: Classes) -> Splits:
    """Return a random split into 64 % training, 16 % validation and 20 % test classes."""
    return divide(classes, *split_randomly(classes.names))


def split_randomly(names: Iterable[str], *, validation: bool = True) -> tuple[list[str], ...]:
    """Split names randomly into 64 % training, 16 % validation and 20 % test names.

    The proportions are those of miniImageNet. If there are at least three
    names, every split has at least one name.

    Args:
        names: The names, in any order.
        validation: Whether to hold out validation names; otherwise these names are training names.

    Returns:
        ``(training names, validation names, test names)``.
    """
    ordered = shuffled(names)
    rest = len(ordered) - max(1, round(0.2 * len(ordered)))
    train = rest - (max(1, round(0.16 * len(ordered))) if validation else 0)
    return ordered[:train], ordered[train:rest], ordered[rest:]
