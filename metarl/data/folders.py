"""Custom image data from a folder with one subfolder per class."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metarl.data import images
from metarl.data.cache import cached, fingerprint


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
GRAY = {"1", "L", "LA", "I", "I;16", "I;16B"}
MIN_CLASSES = 3


def load(data_root: Path | None, *, split: str, image_size: int) -> images.Splits:
    """Load custom images from a folder with one subfolder per class.

    Two layouts are supported:

    - ``CLASS/*.png``: the classes are split randomly into 64 % training, 16 % validation and 20 %
      test classes.
    - ``train/CLASS/*.png`` and ``test/CLASS/*.png``: the validation classes are read from
      ``validation/`` or ``val/``. If neither folder exists, a random tenth of
      the training classes is used for validation.

    Supported extensions are png, jpg, jpeg, bmp, gif and webp. Hidden files,
    files with other extensions and all frames after the first are ignored.
    Images are resized to a square with bilinear interpolation, and
    transparent images are drawn on white. The result has one channel if all
    files are grayscale, otherwise three channels.

    Args:
        data_root: The folder.
        split: ``own``, the only split.
        image_size: Height and width in pixels.

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, channels, image_size, image_size) on the CPU.

    Raises:
        OSError: If `data_root` is ``None`` or not a folder.
        ValueError: If there are fewer than three classes, a split has no
            classes, a class has no images or is in two splits, or a file is
            not an image.
    """
    if data_root is None or not data_root.expanduser().is_dir():
        raise FileNotFoundError(
            f"data_root must be a folder with one subfolder of images per class, got {data_root}"
        )
    root = data_root.expanduser().resolve()
    parts = _parts(root)
    files = {folder.name: _images(folder) for group in parts.values() for folder in group}
    _check_counts(root, parts, files)
    everything = [file for group in files.values() for file in group]
    source = {"files": fingerprint(root, *everything), "size": image_size}
    classes = cached("folder", source, partial(_decode, files, image_size))
    if "" in parts:
        return images.split_classes(classes)
    train, *validation, test = ([path.name for path in group] for group in parts.values())
    if not validation:
        train, *validation = images.hold_out_tenth(images.shuffled(train))
    return images.divide(classes, train, *validation, test)


def _parts(root: Path) -> dict[str, list[Path]]:
    """Return the class folders by split name.

    The only key is ``""`` if `root` has no split folders.
    """
    folders = {path.name: path for path in _folders(root)}
    if not {"train", "test"} <= set(folders):
        return {"": list(folders.values())}
    if {"validation", "val"} <= set(folders):
        raise ValueError(f"{root} contains both validation/ and val/. Keep only one")
    names = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    parts = {part: _folders(folders[name]) for name, part in names.items() if name in folders}
    merge = "Every class must be in exactly one split. Merge the two folders"
    images.require_disjoint({n: [path.name for path in parts[n]] for n in parts}, hint=merge)
    return parts


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _images(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _check_counts(root: Path, parts: dict[str, list[Path]], files: dict[str, list[Path]]) -> None:
    if empty := [name for name, group in files.items() if not group]:
        raise ValueError(
            f"{root} must contain images in all {len(files)} class folders, got none in "
            f"{len(empty)} (first: {empty[0]}). Add {', '.join(SUFFIXES)} files"
        )
    sizes = {part or "all": len(group) for part, group in parts.items()}
    few = len(files) < MIN_CLASSES or (sizes.get("train") == 1 and len(sizes) == 2)
    if few or 0 in sizes.values():
        raise ValueError(
            f"{root} must contain at least {MIN_CLASSES} class folders, one each for training, "
            f"validation and test, got {sizes}"
        )


def _decode(files: dict[str, list[Path]], size: int) -> images.Classes:
    modes = set()
    for file in (file for group in files.values() for file in group):
        with images.open_image(file) as picture:
            modes.add(picture.mode)
    mode, channels = ("L", 1) if modes <= GRAY else ("RGB", 3)

    def convert(picture: Any) -> Any:
        return images.to_square(flatten(picture), mode, size)

    return images.read_images(files, convert, channels=channels, size=size)


def flatten(picture: Any) -> Any:
    """Return a Pillow image without EXIF rotation, transparency or 16-bit pixels."""
    image = images.pillow("Image")
    picture = images.pillow("ImageOps").exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow would clip 16-bit values to 255 instead of scaling them.
        return image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    background = image.new("RGBA", picture.size, "white")
    background.alpha_composite(picture.convert("RGBA"))
    return background
