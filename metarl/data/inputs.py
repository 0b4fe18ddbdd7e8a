"""Conversion of image files, Pillow images and arrays to the image format of a data set."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from metarl.data.families import FAMILIES
from metarl.data.folders import SUFFIXES, flatten
from metarl.data.images import open_image, pillow
from metarl.util import warn, warn_of_similar


CHANNELS = (1, 3, 4)


class ImageFormat(NamedTuple):
    """The image format of a trained network, with a method that converts images to this format.

    Attributes:
        data: Name of the image data set used in training.
        channels: Number of channels: 1 for grayscale, 3 for RGB.
        size: Image height and width in pixels.

    Example::

        >>> import numpy as np
        >>> from metarl.data import ImageFormat
        >>> photographs = np.zeros((10, 480, 640, 3), np.uint8)
        >>> ImageFormat("folder", channels=3, size=84).convert(photographs).shape
        torch.Size([10, 3, 84, 84])
    """

    data: str
    channels: int
    size: int

    def convert(self, images: Any) -> UInt8[Tensor, "n channels size size"]:
        """Convert images to the image format of the data set.

        If the data set is Omniglot or glyphs, files and Pillow images must have
        dark ink on a light background and are inverted. Arrays are never
        inverted: for Omniglot and glyphs, they must already have light ink on a
        dark background, like the result of :func:`load_images`.

        Args:
            images: An array of shape (n, height, width), (n, height, width,
                channels) or (n, channels, height, width), with integers from 0
                to 255 or floats from 0 to 1; or a sequence of file paths,
                Pillow images or single images as arrays; or one path or one
                Pillow image. Floats are rounded to multiples of 1/255.

        Returns:
            The converted images, one per input image and in the same order.

        Raises:
            ValueError: If an array has an unsupported shape or values, or a file is not an image.
        """
        items = image_list(images)
        pixels = np.stack([self._one(image) for image in items])
        if FAMILIES[self.data].inverted and np.median(pixels) > 127:
            warn(
                f"the converted images have a light background, but the training images of "
                f"{self.data} have a dark background. Invert the images"
            )
        return torch.from_numpy(pixels)

    def _one(self, image: Any) -> NDArray[np.uint8]:
        """Return one image as uint8 values of shape (channels, size, size)."""
        if isinstance(image, np.ndarray):
            return self._resized(pillow("Image").fromarray(_interleaved(image)), invert=False)
        if isinstance(image, str | Path):
            with open_image(Path(image)) as picture:
                return self._resized(picture, invert=True)
        return self._resized(image, invert=True)

    def _resized(self, picture: Any, *, invert: bool) -> NDArray[np.uint8]:
        family = FAMILIES[self.data]
        mode = "L" if self.channels == 1 else "RGB"
        made = family.convert(flatten(picture), mode, self.size)
        pixels = np.asarray(made)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return 255 - pixels if invert and family.inverted else pixels.copy()


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted; hidden files are ignored.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If the folder contains no image files.
    """
    require_folder(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not (found := [p for p in files if not any(_hidden(p, folder))]):
        raise ValueError(f"{folder} contains no images. Add {', '.join(SUFFIXES)} files")
    return found


def find_examples(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Return the image files and their classes in a folder with one subfolder per class.

    Returns:
        ``(files, labels)``; the label of a file is the name of the subfolder.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If there are fewer than two subfolders, or a subfolder contains no images.
    """
    root = Path(folder).expanduser()
    require_folder(root)
    classes = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(classes) < 2:
        raise ValueError(
            f"{root} must contain one subfolder per class and at least two classes, got "
            f"{len(classes)}. Add a folder of images for each class"
        )
    warn_of_similar([path.name for path in classes], root)
    found = [(file, path.name) for path in classes for file in find_images(path)]
    return [file for file, _ in found], [label for _, label in found]


def require_folder(path: Path) -> None:
    """Raise an OSError if a path with images is not a folder."""
    if not path.is_dir():
        got = "a file" if path.exists() else "a path that does not exist"
        raise NotADirectoryError(f"{path} must be a folder of images for an image run, got {got}")


def ignored_files(folder: Path) -> int:
    """Return the number of files in a folder and its subfolders that :func:`find_images` ignores.

    Hidden files are not counted.
    """
    files = [p for p in folder.rglob("*") if p.is_file() and not any(_hidden(p, folder))]
    return sum(path.suffix.lower() not in SUFFIXES for path in files)


def _hidden(path: Path, folder: Path) -> list[bool]:
    return [part.startswith(".") for part in path.relative_to(folder).parts]


def image_list(images: Any) -> list[Any]:
    """Return a list of single images, each of which is an array, a path or a Pillow image.

    Args:
        images: Images in any form that :meth:`ImageFormat.convert` accepts.

    Raises:
        ValueError: If the images have an unsupported type or shape, or there are none.
    """
    if isinstance(images, str | Path) and Path(images).is_dir():
        raise ValueError(
            f"`images` must be a list of files, got the folder {images}. Pass a list of the files"
        )
    if isinstance(images, str | Path | pillow("Image").Image):
        return [images]
    if isinstance(images, Tensor) or (
        isinstance(images, np.ndarray) and (images.dtype.kind in "biuf" or images.ndim != 1)
    ):
        return _rows(_array(images))
    if not isinstance(images, Iterable):
        raise ValueError(
            f"`images` must be an array or a list of images, got {_brief(images)}. Pass a list"
        )
    items = [_array(x) if isinstance(x, Tensor) else x for x in images]
    if not items:
        raise ValueError("`images` must contain at least one image, got none. Add images")
    for item in items:
        if not isinstance(item, np.ndarray | str | Path | pillow("Image").Image):
            raise ValueError(
                f"`images` must contain paths, Pillow images or arrays, got {_brief(item)}. "
                "Convert each image to one of these types"
            )
    return items


def _rows(images: NDArray[Any]) -> list[Any]:
    """Return the images in an array with a leading axis."""
    if images.ndim not in (3, 4) or (images.ndim == 3 and images.shape[-1] in CHANNELS):
        raise ValueError(
            "`images` must have shape (n, height, width), (n, height, width, channels) or "
            f"(n, channels, height, width), got {images.shape}. Pass a single image as images[None]"
        )
    if not images.size:
        raise ValueError(f"`images` must contain at least one image, got shape {images.shape}")
    return list(images)


def _brief(value: Any) -> str:
    return f"{' '.join(repr(value).split()):.40} ({type(value).__name__})"


def _array(images: NDArray[Any] | Tensor) -> NDArray[Any]:
    return images.numpy(force=True) if isinstance(images, Tensor) else images


def _interleaved(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return one image as uint8 values of shape (height, width) or (height, width, channels)."""
    if image.ndim == 3 and image.shape[0] in CHANNELS:
        image = image.transpose(1, 2, 0)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] not in CHANNELS):
        raise ValueError(
            "an image must have shape (height, width) or (height, width, channels) with 1, 3 or 4 "
            f"channels, got {image.shape}"
        )
    if not image.size or image.dtype.kind not in "biuf":
        raise ValueError(
            f"an image must contain numbers, got shape {image.shape} and type {image.dtype}. "
            "Remove empty images, and convert other types to uint8"
        )
    limit = 1 if image.dtype.kind in "fb" else 255
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= limit):
        kind = "floats" if limit == 1 else "integers"
        raise ValueError(
            f"images with {kind} must have values from 0 to {limit}, got {low:g} to {high:g}. "
            "Rescale the values"
        )
    image = np.rint(image * 255) if limit == 1 else image
    return image.astype(np.uint8)[..., 0] if image.shape[-1] == 1 else image.astype(np.uint8)
