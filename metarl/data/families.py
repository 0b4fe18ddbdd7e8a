"""The table of image data sets, and the function that loads them by name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metarl.data import folders, glyphs, mini_imagenet, omniglot
from metarl.data.images import Splits


class Family(NamedTuple):
    """An image data set.

    Attributes:
        load: Function ``(data_root, *, split, image_size) -> Splits``.
        splits: Names of the supported splits; the first is the default.
        image_size: Default height and width in pixels.
    """

    load: Callable[..., Splits]
    splits: tuple[str, ...]
    image_size: int


# Image data sets by name; the keys are the values of `data` in load_images.
FAMILIES = {
    "glyphs": Family(glyphs.load, ("random",), 28),
    "omniglot": Family(omniglot.load, tuple(omniglot.SPLITS), 28),
    "mini-imagenet": Family(mini_imagenet.load, ("ravi",), 84),
    "folder": Family(folders.load, ("own",), 84),
}


def load_images(
    data: str,
    *,
    data_root: Path | None = None,
    split: str | None = None,
    image_size: int | None = None,
) -> Splits:
    """Load an image data set, split into training, validation and test classes.

    Args:
        data: ``glyphs``, ``omniglot``, ``mini-imagenet`` or ``folder``.
        data_root: Folder that contains the files. ``folder`` requires it, and ``glyphs`` does not
            accept it. Otherwise it defaults to the environment variable ``METARL_DATA``, and if
            that is not set either, Omniglot is downloaded.
        split: Name of the split; defaults to the first one of the data set in ``FAMILIES``.
        image_size: Height and width in pixels; defaults to 84 for ``mini-imagenet`` and ``folder``,
            otherwise 28.

    Returns:
        The splits, with uint8 images on the CPU.

    Raises:
        ImportError: If a required package is not installed.
        OSError: If files are missing.
        ValueError: If an argument is invalid or the files are damaged.

    Example::

        >>> from metarl.data import load_images
        >>> splits = load_images("glyphs")
        >>> splits.train.images.shape[1:]
        torch.Size([1, 28, 28])
    """
    if data not in FAMILIES:
        raise ValueError(f"unknown data set {data!r}: expected one of {', '.join(FAMILIES)}")
    family = FAMILIES[data]
    split, size = split or family.splits[0], image_size or family.image_size
    if split not in family.splits:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(family.splits)}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
    return family.load(data_root, split=split, image_size=size)
