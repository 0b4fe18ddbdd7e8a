"""Published data sets of photographs: the files of each known layout, and their readers.

Sources of the layouts and splits, which the files contain unless stated otherwise:

- miniImageNet: the tables of Ravi & Larochelle (2017); the caches
  ``mini-imagenet-cache-train.pkl`` of Ren et al. (2018, github.com/renmengye/few-shot-ssl-public),
  which learn2learn (github.com/learnables/learn2learn) also uses.
- tieredImageNet: ``train_images_png.pkl`` and ``train_labels.pkl`` of Ren et al. (2018).
- CIFAR-FS: ``cifar100.zip`` of Bertinetto et al. (2019, github.com/bertinetto/r2d2), or the
  pickles of Lee et al. (2019, github.com/kjunelee/MetaOptNet).
- FC100: the pickles of Lee et al. (2019) with the split of Oreshkin et al. (2018).
- CUB: the archive ``CUB_200_2011.tgz`` (Wah et al. 2011). The split is a rule of Chen et al.
  (2019, github.com/wyharveychen/CloserLookFewShot).
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metarl.data import folders, mini_imagenet
from metarl.data.cache import cached, fingerprint
from metarl.data.images import (
    Classes,
    Splits,
    find_files,
    read_images,
    require_disjoint,
    to_square,
)
from metarl.data.pickles import load_pickle, text


PARTS = ("train", "val", "test")
Rows: TypeAlias = Mapping[str, Sequence[int] | NDArray[Any]]
"""Indices of the images of each class."""


class Layout(NamedTuple):
    """A layout in which a data set is published.

    Attributes:
        folder: Name of the subfolder of `data_root` with the files; the files can also be in
            `data_root` itself.
        files: Alternative names for each file or folder, the preferred name first.
        read: Function ``(paths of the files, image_size) -> Splits``.
    """

    folder: str
    files: Sequence[tuple[str, ...]]
    read: Callable[[list[Path], int], Splits]


class PickledImage(NamedTuple):
    """An image in a pickle.

    Attributes:
        name: Description for errors.
        data: Pixels of shape (height, width, 3), or the bytes of an image file, as uint8 array.
    """

    name: str
    data: NDArray[np.uint8]

    def __str__(self) -> str:
        """Return the description."""
        return self.name

    def read_bytes(self) -> bytes:
        """Return the contents of an image file; pixels become a file in the format PPM."""
        if self.data.ndim != 3:
            return self.data.tobytes()
        height, width, _ = self.data.shape
        return f"P6 {width} {height} 255\n".encode() + self.data.tobytes()


def load(name: str, data_root: Path | None, *, split: str, image_size: int) -> Splits:
    """Load a data set in the first of its layouts that is complete.

    Images of any size are converted to RGB and resized to a square with
    bilinear interpolation. Nothing is downloaded.

    Args:
        name: A key of :data:`LAYOUTS`.
        data_root: Folder with the files, or with the subfolder of the layout;
            defaults to the environment variable ``METARL_DATA``.
        split: The only split of the data set.
        image_size: Height and width in pixels.

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, 3, image_size, image_size) on the CPU.

    Raises:
        OSError: If files are missing. The message names the expected files.
        ValueError: If a file is damaged, or a class is in two splits.
    """
    del split
    incomplete = None
    for layout in LAYOUTS[name]:
        try:
            if files := find_files(data_root, layout.folder, layout.files):
                return layout.read(files, image_size)
        except FileNotFoundError as error:
            incomplete = incomplete or error
    known = [f"{x.folder}/ with {', '.join(f[0] for f in x.files)}" for x in LAYOUTS[name]]
    got = data_root or os.environ.get("METARL_DATA")
    raise incomplete or FileNotFoundError(
        f"data_root must contain {', or '.join(known)}, got {got}. Nothing is downloaded"
    )


def _pickled(read: Callable[..., tuple[Any, Rows]], files: list[Path], size: int) -> Splits:
    """Read the pickles of the three splits; labels in files of their own follow the images."""
    found = {}
    for paths in (files[first :: len(PARTS)] for first in range(len(PARTS))):
        key = {"files": fingerprint(*paths), "size": size}
        found[paths[0]] = cached("pickled", key, partial(_decode, read, paths, size))
    names = {file: classes.names for file, classes in found.items()}
    require_disjoint(names, hint=f"Download the files in {files[0].parent} again")
    return Splits(*found.values())


def _decode(read: Callable[..., tuple[Any, Rows]], paths: list[Path], size: int) -> Classes:
    contents = [load_pickle(path) for path in paths]
    try:
        pixels, rows = read(*contents)
        groups = {
            name: [PickledImage(f"image {row} in {paths[0]}", pixels[row]) for row in rows[name]]
            for name in sorted(rows)
        }
        valid = groups and all(_is_image(image) for group in groups.values() for image in group)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{paths[-1]} has unexpected contents: expected uint8 images and the class of every "
            "image, as in the published file. Download the file again"
        )
    convert = partial(to_square, mode="RGB", size=size)
    return read_images(groups, convert, channels=3, size=size)


def _is_image(image: PickledImage) -> bool:
    data = image.data
    pixels = data.ndim == 3 and data.shape[2] == 3
    return data.dtype == np.uint8 and (pixels or data.size == max(data.shape))


def _cache(contents: Any) -> tuple[Any, Rows]:
    return contents["image_data"], {text(n): rows for n, rows in contents["class_dict"].items()}


def _labeled(contents: Any) -> tuple[Any, Rows]:
    rows = _rows(contents["data"], contents["labels"])
    return contents["data"], {f"{label:03}": row for label, row in rows.items()}


def _encoded(images: Any, about: Any) -> tuple[Any, Rows]:
    names, rows = about["label_specific_str"], _rows(images, about["label_specific"])
    return images, {f"{label:03} {text(names[label])}": row for label, row in rows.items()}


def _rows(images: Any, labels: Any) -> dict[int, NDArray[Any]]:
    if len(images) != len(labels):
        raise ValueError("different numbers of images and labels")
    array = np.asarray(labels)
    return {int(label): np.flatnonzero(array == label) for label in np.unique(array)}


def _listed(files: list[Path], size: int) -> Splits:
    """Read one folder per class, and the split from a folder with lists of classes."""
    return folders.load(files[0], split=str(files[1]), image_size=size)


def _divided(files: list[Path], size: int) -> Splits:
    """Read the folders ``train``, ``val`` and ``test``, with one subfolder per class."""
    return folders.load(files[0].parent, split="own", image_size=size)


def _every_second(files: list[Path], size: int) -> Splits:
    """Read one folder per class, with every second class in training (Chen et al. 2019).

    Of the other classes, every second one is a validation class. The table of
    classes gives the order, so that a missing folder does not change the split.
    """
    lines = files[1].read_text(encoding="utf-8").splitlines()
    names = sorted(line.split()[-1] for line in lines if line.strip())
    split = {"train": names[::2], "validation": names[1::4], "test": names[3::4]}
    return folders.load(files[0], split=json.dumps(split), image_size=size)


def _each(*patterns: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of three files, one per split."""
    return tuple(tuple(pattern.format(part) for pattern in patterns) for part in PARTS)


CIFAR = partial(_pickled, _labeled)
LAYOUTS = {
    "mini-imagenet": (
        Layout("miniimagenet", _each("{}.csv", "{}.csv.gz"), mini_imagenet.read),
        Layout("miniimagenet", _each("mini-imagenet-cache-{}.pkl"), partial(_pickled, _cache)),
    ),
    "tiered-imagenet": (
        Layout(
            "tiered-imagenet",
            (*_each("{}_images_png.pkl"), *_each("{}_labels.pkl")),
            partial(_pickled, _encoded),
        ),
        Layout("tiered-imagenet", _each("{}"), _divided),
    ),
    "cifar-fs": (
        Layout("cifar100", (("data",), ("splits/bertinetto",)), _listed),
        Layout("cifar-fs", _each("CIFAR_FS_{}.pickle"), CIFAR),
    ),
    "fc100": (Layout("fc100", _each("FC100_{}.pickle"), CIFAR),),
    "cub": (Layout("CUB_200_2011", (("images",), ("classes.txt",)), _every_second),),
}
"""Layouts of each data set; the first complete layout is used."""
