"""Own images: a folder for each class."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metarl.data.cache import cached, fingerprint
from metarl.data.images import (
    Classes,
    Splits,
    divide,
    hold_out_tenth,
    open_image,
    pillow,
    read_images,
    require_disjoint,
    resize_square,
    shuffled,
    split_classes,
)


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
GRAY = {"1", "L", "LA", "I", "I;16", "I;16B"}
MIN_CLASSES = 3


def load(data_root: Path | None, *, split: str, image_size: int) -> Splits:
    """Read ``ROOT/CLASS/*.png``, or ``ROOT/train/CLASS/*.png`` and ``ROOT/test/CLASS/*.png``.

    Where there are ``train`` and ``test``, there may be ``validation`` or ``val``; without it a
    tenth of the training classes serves. Otherwise classes are split 64 : 16 : 20. Images are
    squeezed to a square by bilinear interpolation, transparent parts become white; they have one
    channel if every file is stored in gray, else three. Hidden files and files of other types are
    passed over, and so is what an image has beside its first frame.

    Args:
        data_root: The folder.
        split: ``own``, the only one.
        image_size: Height and width.

    Raises:
        OSError: If there is no folder.
        ValueError: If it has too few classes, a class without images or files that are no images.
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
        return split_classes(classes)
    train, *validation, test = ([path.name for path in group] for group in parts.values())
    learning = (train, *validation) if validation else hold_out_tenth(shuffled(train))
    return divide(classes, *learning, test)


def _parts(root: Path) -> dict[str, list[Path]]:
    """Return the class folders of each part: of ``""`` if the root is not divided."""
    folders = {path.name: path for path in _folders(root)}
    if not {"train", "test"} <= set(folders):
        return {"": list(folders.values())}
    if {"validation", "val"} <= set(folders):
        raise ValueError(f"{root} has both validation and val; keep one of them")
    names = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    parts = {part: _folders(folders[name]) for name, part in names.items() if name in folders}
    merge = "few-shot classes belong to one split: merge them"
    require_disjoint({n: [path.name for path in parts[n]] for n in parts}, hint=merge)
    return parts


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _images(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _check_counts(root: Path, parts: dict[str, list[Path]], files: dict[str, list[Path]]) -> None:
    if empty := [name for name, group in files.items() if not group]:
        raise ValueError(
            f"{len(empty)} of the {len(files)} class folders of {root} have no images, the first "
            f"is {empty[0]}; images end in {', '.join(SUFFIXES)}"
        )
    sizes = {part or "all": len(group) for part, group in parts.items()}
    few = len(files) < MIN_CLASSES or (sizes.get("train") == 1 and len(sizes) == 2)
    if few or 0 in sizes.values():
        raise ValueError(
            f"{root} has {len(files)} class folders {sizes}; expected at least {MIN_CLASSES}, "
            "one each to train, to validate and to test on"
        )


def _decode(files: dict[str, list[Path]], size: int) -> Classes:
    modes = set()
    for file in (file for group in files.values() for file in group):
        with open_image(file) as picture:
            modes.add(picture.mode)
    mode, channels = ("L", 1) if modes <= GRAY else ("RGB", 3)
    return read_images(
        files,
        lambda picture: resize_square(_flat(picture), mode, size),
        channels=channels,
        size=size,
    )


def _flat(picture: Any) -> Any:
    """Turn a picture the right way up, without transparency and with 8 bits to a channel."""
    image = pillow("Image")
    picture = pillow("ImageOps").exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255.
        return image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    paper = image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture.convert("RGBA"))
    return paper
