"""Custom image data from a folder with one subfolder per class."""

import os
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from metarl.data import images, splitting
from metarl.data.cache import cached, fingerprint
from metarl.util import warn_of_similar


Files: TypeAlias = dict[str, list[Path]]
"""Image files by class name."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
GRAY = {"1", "L", "LA", "I", "I;16", "I;16B"}


def load(
    data_root: Path | None,
    *,
    split: str,
    image_size: int,
    class_depth: int = 1,
    validation: bool = True,
) -> images.Splits:
    """Load custom images from a folder with one subfolder per class.

    Supported extensions are png, jpg, jpeg, bmp, gif, webp, tif and tiff. Hidden files,
    files with other extensions and all frames after the first are ignored.
    Images are resized to a square with bilinear interpolation, and
    transparent images are drawn on white. The result has one channel if all
    files are grayscale, otherwise three channels.

    Args:
        data_root: The folder; defaults to the environment variable ``METARL_DATA``.
        split: Name of a split or path of a split file, see :func:`find_classes`.
        image_size: Height and width in pixels.
        class_depth: Number of folder levels that form a class, see :func:`find_classes`.
        validation: Whether to hold out validation classes, see :func:`find_classes`.

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, channels, image_size, image_size) on the CPU.

    Raises:
        OSError: If `data_root` or the split file does not exist.
        ValueError: If the split is invalid, a class has no images or is in two splits, or a file
            is not an image.
    """
    options: Any = {"split": split, "class_depth": class_depth, "validation": validation}
    parts = find_classes(data_root, **options)
    files = dict(sorted((name, group) for part in parts.values() for name, group in part.items()))
    everything = [file for group in files.values() for file in group]
    source = {"files": fingerprint(root_of(data_root), *everything), "size": image_size}
    classes = cached("folder", source, partial(_decode, files, image_size))
    return images.divide(classes, *parts.values())


def root_of(data_root: Path | None) -> Path:
    """Return the absolute path of a folder with images.

    Args:
        data_root: The folder; defaults to the environment variable ``METARL_DATA``.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    root = data_root or os.environ.get("METARL_DATA")
    if not root or not Path(root).expanduser().is_dir():
        raise FileNotFoundError(
            f"data_root must be a folder with one subfolder of images per class, got {root}. Set "
            "data_root or the environment variable METARL_DATA to an existing folder"
        )
    return Path(root).expanduser().resolve()


def has_splits(data_root: Path | None) -> bool:
    """Return whether a folder contains both split folders, ``train`` and ``test``.

    Args:
        data_root: The folder; defaults to the environment variable ``METARL_DATA``.
    """
    return {"train", "test"} <= {path.name for path in _folders(root_of(data_root))}


def find_classes(
    data_root: Path | None, *, split: str = "own", class_depth: int = 1, validation: bool = True
) -> dict[str, Files]:
    """Find the image files of custom classes, without decoding them.

    Args:
        data_root: The folder; defaults to the environment variable ``METARL_DATA``.
        split: ``own`` uses the folders ``train/``, ``validation/`` or
            ``val/``, and ``test/``; if `data_root` contains no ``train/`` and
            ``test/``, the classes are split randomly into 64 % training, 16 %
            validation and 20 % test classes. ``all-train`` and ``all-test``
            use all classes for training or for test. Every other value is the
            path of a JSON file with lists of class names for the keys ``train``,
            ``validation`` and ``test``, the text of such a file, or a folder with the lists
            ``train.txt``, ``val.txt`` and ``test.txt``; see
            :func:`~metarl.data.splitting.read_split`.
        class_depth: Number of folder levels that form a class. With 2, the folders
            ``ALPHABET/CHARACTER`` are the classes.
        validation: Whether to hold out random validation classes if the data have no fixed
            validation classes: a tenth of the classes in ``train/``, or 16 % of all classes.

    Returns:
        The keys ``train``, ``validation`` and ``test``. The values are image files by class name;
        a split that is not used is empty.

    Raises:
        OSError: If `data_root` or the split file does not exist.
        ValueError: If the split is invalid, or a class has no images or is in two splits.
    """
    root = root_of(data_root)
    found = _found(root, class_depth, split_folders=has_splits(root))
    files: Files = {name: group for part in found.values() for name, group in part.items()}
    warn_of_similar(files, root)
    given = {part: [*group] for part, group in found.items()} if has_splits(root) else None
    names = splitting.split_names([*files], split, given, validation=validation)
    if split == "own":
        _require_counts(root, given or {"all": [*files]}, names, validation=validation)
    chosen = {part: {name: files[name] for name in group} for part, group in names.items()}
    _require_images(root, chosen, class_depth)
    return chosen


def _found(root: Path, depth: int, *, split_folders: bool) -> dict[str, Files]:
    """Return the image files by class for each split.

    Args:
        root: Folder with the class folders or, if `split_folders` is true, with the split folders.
        depth: Number of folder levels that form a class.
        split_folders: Whether `root` contains the folders ``train`` and ``test``. Otherwise, the
            only key of the result is ``""``.
    """
    if not split_folders:
        return {"": _classes(root, depth)}
    folders = {path.name: path for path in _folders(root)}
    if {"validation", "val"} <= set(folders):
        raise ValueError(
            f"{root} contains both validation/ and val/. Keep only one of these two folders"
        )
    parts = {
        part: _classes(folders[name], depth)
        for name, part in splitting.PARTS.items()
        if name in folders
    }
    merge = (
        "Every class must be in exactly one split: merge the two folders. To classify new images "
        "of known classes, use `metarl predict`"
    )
    images.require_disjoint(parts, hint=merge)
    return parts


def _classes(root: Path, depth: int) -> Files:
    folders = [root]
    for _ in range(depth):
        folders = [child for folder in folders for child in _folders(folder)]
    return {folder.relative_to(root).as_posix(): _images(folder) for folder in folders}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _images(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _require_counts(
    root: Path, found: splitting.Names, names: splitting.Names, *, validation: bool
) -> None:
    needed = ("train", "validation", "test") if validation else ("train", "test")
    if any(found.values()) and any(not names[part] for part in needed):
        sizes = {part: len(group) for part, group in found.items()}
        raise ValueError(
            f"{root} must contain at least {len(needed)} class folders, one each for "
            f"{' and '.join([', '.join(needed[:-1]), needed[-1]])}, got {sizes}. Set "
            "split=all-train to use all classes for training"
        )


def _require_images(root: Path, parts: dict[str, Files], depth: int) -> None:
    files = {name: group for part in parts.values() for name, group in part.items()}
    if not files:
        raise ValueError(
            f"{root} must contain one subfolder of images per class, got none. Add a subfolder for "
            "each class"
        )
    if empty := [name for name, group in files.items() if not group]:
        deeper = any(_folders(folder) for folder in root.glob(f"**/{empty[0]}"))
        advice = f"Set class_depth={depth + 1}" if deeper else f"Add {', '.join(SUFFIXES)} files"
        raise ValueError(
            f"{root} must contain images in all {len(files)} class folders, got none in "
            f"{len(empty)} (first: {empty[0]}). {advice}"
        )


def _decode(files: Files, size: int) -> images.Classes:
    modes = set()
    for file in (file for group in files.values() for file in group):
        with images.open_image(file) as picture:
            modes.add(picture.mode)
    mode, channels = ("L", 1) if modes <= GRAY else ("RGB", 3)

    def convert(picture: Any) -> Any:
        return images.to_square(flatten(picture), mode, size)

    return images.read_images(files, convert, channels=channels, size=size)


def flatten(picture: Any) -> Any:
    """Apply EXIF rotation, draw transparent pixels on white, and convert 16-bit to 8-bit pixels.

    Args:
        picture: The Pillow image.

    Returns:
        The converted Pillow image.

    Raises:
        ValueError: If the pixels are floats, whose range is unknown.
    """
    if picture.mode == "F":
        raise ValueError(
            "an image must have integer pixels, got floats (mode F). Convert the pixels to 8 bits"
        )
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
