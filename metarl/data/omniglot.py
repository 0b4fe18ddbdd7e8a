"""Omniglot: 1623 characters from 50 alphabets, each drawn by 20 people (Lake et al. 2015)."""

import hashlib
import http.client
import re
import urllib.request
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from metarl.data import images
from metarl.data.cache import cache_folder, cached, fingerprint
from metarl.util import replacing, warn


Names: TypeAlias = Sequence[str]


class Archive(NamedTuple):
    """The expected contents of an official Omniglot archive.

    Attributes:
        characters: Number of characters in the archive.
        images: Number of images in the archive.
        md5: MD5 checksum of the zip file.
    """

    characters: int
    images: int
    md5: str


ARCHIVES = {
    "images_background": Archive(964, 19_280, "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation": Archive(659, 13_180, "6b91aef0f799c5bb55b94e3f2daec811"),
}
URL = "https://github.com/brendenlake/omniglot/raw/master/python/{}.zip"
DRAWING = re.compile(r"(?:^|/)([^/]+/character\d+)/[^/.][^/]*\.png$")

NUM_TRAIN, NUM_VALIDATION = 1200, 100

# Vinyals et al. (2016) split by alphabet, with 172 validation and 423 test characters.
VINYALS_VALIDATION = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
VINYALS_TEST = {
    *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)"),
    *("Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
    *(f"Gurmukhi/character{number}" for number in range(42, 46)),
}


def load(data_root: Path | None, *, split: str, image_size: int) -> images.Splits:
    """Load Omniglot from a folder, or download it.

    Three splits are supported:

    - ``random``: 1100 training, 100 validation and 423 test characters. The test set has the same
      size as in MAML (Finn et al. 2017), which trains on the other 1200 characters.
    - ``vinyals``: 1028 training, 172 validation and 423 test characters, split by alphabet (Vinyals
      et al. 2016).
    - ``background``: the official background set for training and validation, with a random tenth
      for validation, and the official evaluation set for test.

    The drawings are resized with nearest-neighbor interpolation, as in
    published results: the published code requests a different filter, which
    Pillow ignores for 1-bit images. As in MAML, the drawings are inverted to
    ink 255 on background 0; Reptile and MAML++ use a white background
    instead.

    Args:
        data_root: Folder with ``images_background.zip`` and
            ``images_evaluation.zip``, or with the unpacked folders; these can
            also be in the subfolder ``omniglot``. Defaults to the environment
            variable ``METARL_DATA``. If `data_root` is ``None``, and
            ``METARL_DATA`` is not set or does not contain Omniglot, the
            archives are downloaded into the cache folder.
        split: ``random``, ``vinyals`` or ``background``.
        image_size: Height and width in pixels.

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, channels, image_size, image_size) on the CPU.

    Raises:
        OSError: If `data_root` does not contain Omniglot, or the download fails.
        ValueError: If the data are incomplete or damaged.
    """
    sources = images.find_files(data_root, "omniglot", [(f"{name}.zip", name) for name in ARCHIVES])
    if not sources and data_root is not None:
        raise FileNotFoundError(
            f"data_root must contain {' and '.join(ARCHIVES)} as zip files or folders, got "
            f"{data_root}. Omit this argument to download Omniglot"
        )
    sources = sources or [download(name, cache_folder() / "omniglot") for name in ARCHIVES]
    background, evaluation = (_read(path, image_size) for path in sources)
    parts = SPLITS[split](background.names, evaluation.names)
    return images.divide(images.join(background, evaluation), *parts)


def _random(background: Names, evaluation: Names) -> Sequence[Names]:
    names = images.shuffled((*background, *evaluation))
    first, last = NUM_TRAIN - NUM_VALIDATION, NUM_TRAIN
    return names[:first], names[first:last], names[last:]


def _vinyals(background: Names, evaluation: Names) -> Sequence[Names]:
    parts: list[list[str]] = [[], [], []]
    for name in (*background, *evaluation):
        keys = {name, name.partition("/")[0]}
        parts[1 if keys & VINYALS_VALIDATION else 2 if keys & VINYALS_TEST else 0].append(name)
    return parts


def _background(background: Names, evaluation: Names) -> Sequence[Names]:
    return *images.hold_out_tenth(images.shuffled(background)), evaluation


SPLITS = {"random": _random, "vinyals": _vinyals, "background": _background}


def download(name: str, folder: Path) -> Path:
    """Download an official Omniglot archive, unless the target folder already contains it.

    Args:
        name: ``images_background`` or ``images_evaluation``.
        folder: Target folder.

    Returns:
        The path of the zip file.

    Raises:
        OSError: If the download fails. The message describes a manual download.
        ValueError: If the downloaded file has the wrong MD5 checksum.
    """
    path, url = folder / f"{name}.zip", URL.format(name)
    if path.exists():
        return path
    warn(f"downloading {url} to {folder}, because METARL_DATA does not contain Omniglot")
    manually = (
        f"Download the file manually into {folder}, or set data_root to the folder that "
        "contains the file"
    )
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url} cannot be downloaded ({error}). {manually}") from None
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 != ARCHIVES[name].md5:
        expected = ARCHIVES[name].md5
        raise ValueError(f"{url} has the wrong MD5: expected {expected}, got {md5}. {manually}")
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def _read(source: Path, size: int) -> images.Classes:
    unpacked = sorted(source.rglob("*.png"), key=str)
    key = {"files": fingerprint(source, *unpacked), "size": size}
    return cached("omniglot", key, partial(_decode, source, unpacked, size))


def _decode(source: Path, files: Sequence[images.ImageFile], size: int) -> images.Classes:
    if not source.is_dir():
        try:
            archive = zipfile.ZipFile(source)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{source} is a damaged zip file ({error}). Replace the file"
            ) from None
        files = [zipfile.Path(archive, name) for name in sorted(archive.namelist())]
    characters: dict[str, list[images.ImageFile]] = {}
    for file in files:
        if match := DRAWING.search(str(file)):
            characters.setdefault(match[1], []).append(file)
    expected, found = ARCHIVES[source.stem], sum(map(len, characters.values()))
    if (len(characters), found) != expected[:2]:
        raise ValueError(
            f"{source} is incomplete: expected {expected.characters:,} characters and "
            f"{expected.images:,} images, got {len(characters):,} and {found:,}. Download "
            f"{URL.format(source.stem)} again"
        )
    convert = partial(to_drawing, mode="L", size=size)
    classes = images.read_images(characters, convert, channels=1, size=size)
    return classes._replace(images=255 - classes.images)


def to_drawing(picture: Any, mode: str, size: int) -> Any:
    """Return a Pillow image as a square image, with nearest-neighbor interpolation.

    Args:
        picture: The Pillow image.
        mode: Pillow mode, such as ``"L"``.
        size: Height and width of the result in pixels.
    """
    nearest = images.pillow("Image").Resampling.NEAREST
    return picture.resize((size, size), nearest).convert(mode)
