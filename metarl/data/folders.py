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

    The images are ``ROOT/CLASS/*.png``, split 64 : 16 : 20 by class, or ``ROOT/train/CLASS/*.png``
    and ``ROOT/test/CLASS/*.png``. In the second case the validation classes are those of
    ``ROOT/validation`` or ``ROOT/val``, or a tenth of the training classes if neither folder
    exists.

    Images are resized to a square by bilinear interpolation, and transparent pixels become white.
    The images have one channel if all files are grayscale, otherwise three. Hidden files, files of
    other types and all frames after the first are ignored.

    Args:
        data_root: The folder.
        split: ``own``, the only split.
        image_size: Height and width in pixels.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If the folder has too few classes, a class without images or a file that is not
            an image.
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
    """Return the class folders of each split by name, or under ``""`` if the root is not split."""
    folders = {path.name: path for path in _folders(root)}
    if not {"train", "test"} <= set(folders):
        return {"": list(folders.values())}
    if {"validation", "val"} <= set(folders):
        raise ValueError(f"{root} contains both validation/ and val/. Keep one of them")
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
            f"{len(empty)} of the {len(files)} class folders of {root} contain no images (first: "
            f"{empty[0]}): expected files that end in {', '.join(SUFFIXES)}"
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
        return images.to_square(_flatten(picture), mode, size)

    return images.read_images(files, convert, channels=channels, size=size)


def _flatten(picture: Any) -> Any:
    """Return a picture in upright orientation, without transparency and with 8 bits per channel."""
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
