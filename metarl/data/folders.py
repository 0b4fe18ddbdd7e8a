"""Own images: a folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.data.cache import cached, fingerprint
from metarl.data.images import (
    UNREADABLE,
    Classes,
    Splits,
    pillow,
    read_images,
    require_disjoint,
    select,
    shuffled,
    split_classes,
)


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
GRAY = {"1", "L", "LA", "I", "I;16", "I;16B"}
MIN_CLASSES = 3


def load(root: Path | None, *, split: str, image_size: int) -> Splits:
    """Read ``ROOT/CLASS/*.png``, or ``ROOT/train/CLASS/*.png`` and ``ROOT/test/CLASS/*.png``.

    Where there are ``train`` and ``test``, there may be ``validation`` or ``val``; without it a
    tenth of the training classes serves. Otherwise classes are split 64 : 16 : 20. Images are
    squeezed to a square by bilinear interpolation, transparent parts become white; they have one
    channel if every file is stored in gray, else three. Hidden files and files of other types are
    passed over, and so is what an image has beside its first frame.

    Args:
        root: The folder.
        split: ``own``, the only one.
        image_size: Height and width.

    Raises:
        OSError: If there is no folder.
        ValueError: If it has too few classes, a class without images or files that are no images.
    """
    if root is None or not root.expanduser().is_dir():
        raise FileNotFoundError(
            f"images of one's own need a folder, got {root}; name one that has a folder for each "
            "class with --data-root"
        )
    root = root.expanduser()
    parts = _parts(root)
    files = _files(root, parts)
    source = fingerprint(root) | {"size": image_size}
    classes = cached("folder", source, lambda: _decode(root, files, image_size))
    return _split(classes, parts)


def _parts(root: Path) -> dict[str, list[Path]]:
    """Return the class folders of each part: of ``""`` if the root is not divided."""
    folders = {path.name: path for path in _folders(root)}
    if not {"train", "test"} <= set(folders):
        return {"": list(folders.values())}
    names: list[str] = [name for name in ("train", "validation", "val", "test") if name in folders]
    if len(names) == 4:
        raise ValueError(f"{root} has both validation and val; keep one of them")
    parts = {name: _folders(folders[name]) for name in names}
    merge = "few-shot classes belong to one split: merge them and leave the splitting to metarl"
    require_disjoint({n: [path.name for path in parts[n]] for n in names}, hint=merge)
    return parts


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _files(root: Path, parts: dict[str, list[Path]]) -> dict[str, list[str]]:
    folders = [path for group in parts.values() for path in group]
    files = {folder.name: _images(root, folder) for folder in folders}
    if empty := [folder for folder in folders if not files[folder.name]]:
        raise ValueError(
            f"{len(empty)} of the {len(folders)} class folders of {root} have no images, the first "
            f"is {empty[0].relative_to(root)}; images end in {', '.join(SUFFIXES)} "
            "(and a split of one's own is two folders, train and test)"
        )
    sizes = {part or "all": len(group) for part, group in parts.items()}
    few = len(folders) < MIN_CLASSES or (sizes.get("train") == 1 and len(sizes) == 2)
    if few or 0 in sizes.values():
        raise ValueError(
            f"{root} has {len(folders)} class folders {sizes}; expected at least {MIN_CLASSES}, "
            "one each to train, to validate and to test on"
        )
    return files


def _images(root: Path, folder: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix()
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
    )


def _decode(root: Path, files: dict[str, list[str]], size: int) -> Classes:
    mode = "L" if _modes(root, files) <= GRAY else "RGB"

    def read(name: str) -> bytes:
        return (root / name).read_bytes()

    def convert(picture: Any) -> Any:
        bilinear = pillow("Image").Resampling.BILINEAR
        return _flat(picture).convert(mode).resize((size, size), bilinear)

    shape = (1 if mode == "L" else 3, size, size)
    return read_images(files, read, convert=convert, shape=shape)


def _modes(root: Path, files: dict[str, list[str]]) -> set[str]:
    """Read the heads of all files, so that one message speaks of all that are no images."""
    opened = pillow("Image").open
    modes, bad = set(), []
    names = [name for group in files.values() for name in group]
    for name in names:
        try:
            with opened(root / name) as picture:
                modes.add(picture.mode)
        except UNREADABLE:
            bad.append(name)
    if bad:
        raise ValueError(
            f"{len(bad)} of the {len(names)} files in {root} are no images, the first is {bad[0]}; "
            "remove or replace them"
        )
    return modes


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


def _split(classes: Classes, parts: dict[str, list[Path]]) -> Splits:
    if "" in parts:
        return split_classes(classes)
    names: dict[str, Sequence[str]] = {part: [p.name for p in parts[part]] for part in parts}
    validation = names.get("validation") or names.get("val")
    train = names["train"]
    if validation is None:
        mixed = shuffled(train)
        last = len(mixed) - max(1, round(0.1 * len(mixed)))
        train, validation = mixed[:last], mixed[last:]
    return Splits(*(select(classes, part) for part in (train, validation, names["test"])))
