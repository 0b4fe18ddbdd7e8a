"""Families of images by name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metarl.data import folders, glyphs, mini_imagenet, omniglot
from metarl.data.images import Splits


class Family(NamedTuple):
    """A source of images.

    Attributes:
        load: ``(data_root, *, split, image_size) -> Splits``.
        splits: The splits that it knows, its usual one first.
        image_size: The usual height and width.
    """

    load: Callable[..., Splits]
    splits: tuple[str, ...]
    image_size: int


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
    """Return the classes of a family of images, split, as uint8 tensors on the CPU.

    Args:
        data: ``glyphs``, ``omniglot``, ``mini-imagenet`` or ``folder``.
        data_root: Where the files are; ``None`` means the environment variable ``METARL_DATA``, and
            without it Omniglot is downloaded.
        split: One of the family's; ``None`` means its usual one.
        image_size: Height and width; ``None`` means the usual size.

    Raises:
        ImportError: If a package is missing.
        OSError: If files are missing.
        ValueError: If the choice is impossible or the files are damaged.
    """
    if data not in FAMILIES:
        raise ValueError(f"there are no data {data!r}; choose one of {', '.join(FAMILIES)}")
    family = FAMILIES[data]
    split, size = split or family.splits[0], image_size or family.image_size
    if split not in family.splits:
        raise ValueError(f"{data} has no split {split!r}; choose one of {', '.join(family.splits)}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"expected an image size of at least 1 pixel, got {image_size}")
    return family.load(data_root, split=split, image_size=size)
