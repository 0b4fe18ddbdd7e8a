"""Omniglot: 1623 characters of 50 alphabets, each drawn by 20 people (Lake et al. 2015)."""

import hashlib
import http.client
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from metarl.data.cache import cache_folder, cached, fingerprint, replacing
from metarl.data.images import (
    Classes,
    Splits,
    find_data,
    join,
    opened,
    pillow,
    read_images,
    select,
    shuffled,
)
from metarl.util.console import warn


class Archive(NamedTuple):
    """What one of the two official archives holds, and the MD5 of its zip file."""

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

# Vinyals et al. (2016) divide by alphabet, and so that 172 and 423 characters come out.
VINYALS_VALIDATION = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
VINYALS_TEST = {
    *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)"),
    *("Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
    *(f"Gurmukhi/character{number}" for number in range(42, 46)),
}


def load(root: Path | None, *, split: str, image_size: int) -> Splits:
    """Read Omniglot from a folder, or download it.

    The drawings are shrunk by nearest neighbour, as the papers do (they ask Pillow for another
    filter, which it ignores for images of 1 bit), and inverted so that ink is 255, as in MAML;
    Reptile and MAML++ leave the background white.

    Args:
        root: The folder that contains ``omniglot/``, or that folder; in it the two official zip
            files or what they unpack to. ``None``: ``METARL_DATA``, else the download.
        split: ``random``: 1200 characters to train on, 423 to test on, as MAML. The last 100 of
            the 1200 are for validation; MAML counts them as training.
            ``vinyals``: 1028, 172 and 423 characters, by alphabet.
            ``background``: the background set, a tenth of it for validation; the evaluation set.
        image_size: Height and width.

    Raises:
        OSError: If there are no data and none can be downloaded.
        ValueError: If the data are not complete.
    """
    folder = _folder(root)
    background, evaluation = (_read(_source(folder, name), name, image_size) for name in ARCHIVES)
    return SPLITS[split](background, evaluation)


def _random(background: Classes, evaluation: Classes) -> Splits:
    classes = join(background, evaluation)
    names = shuffled(classes.names)
    first, last = NUM_TRAIN - NUM_VALIDATION, NUM_TRAIN
    return Splits(
        *(select(classes, part) for part in (names[:first], names[first:last], names[last:]))
    )


def _vinyals(background: Classes, evaluation: Classes) -> Splits:
    classes = join(background, evaluation)
    parts: tuple[list[str], list[str], list[str]] = [], [], []
    for name in classes.names:
        keys = {name, name.partition("/")[0]}
        parts[1 if keys & VINYALS_VALIDATION else 2 if keys & VINYALS_TEST else 0].append(name)
    return Splits(*(select(classes, part) for part in parts))


def _background(background: Classes, evaluation: Classes) -> Splits:
    names = shuffled(background.names)
    last = len(names) - round(0.1 * len(names))
    train, validation = (select(background, part) for part in (names[:last], names[last:]))
    return Splits(train, validation, evaluation)


SPLITS: dict[str, Callable[[Classes, Classes], Splits]] = {
    "random": _random,
    "vinyals": _vinyals,
    "background": _background,
}


def _folder(root: Path | None) -> Path:
    def holds(folder: Path) -> bool:
        return any(path.exists() for name in ARCHIVES for path in _places(folder, name))

    if found := find_data(root, "omniglot", holds=holds):
        return found
    if root is not None:
        wanted = " and ".join(f"{name}.zip" for name in ARCHIVES)
        raise FileNotFoundError(
            f"{root} has neither {wanted} nor the folders of these names, and no omniglot/ with "
            "them; put them there, or leave --data-root away to download them"
        )
    folder = cache_folder() / "omniglot"
    for name in ARCHIVES:
        download(name, folder)
    return folder


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.zip", folder / name


def _source(folder: Path, name: str) -> Path:
    for place in _places(folder, name):
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{folder} lacks {name}.zip, one of the two parts of Omniglot; get it from "
        f"{URL.format(name)}"
    )


def download(name: str, folder: Path) -> None:
    """Download an official archive into a folder, unless it is there.

    Raises:
        OSError: If it cannot be downloaded; the message says where to put it by hand.
        ValueError: If what came is something else.
    """
    path, url = folder / f"{name}.zip", URL.format(name)
    if path.exists():
        return
    warn(f"downloading {url} to {folder}, since it is neither there nor under METARL_DATA")
    by_hand = f"get it by hand and put it into {folder}, or into a folder for --data-root"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url} cannot be downloaded ({error}); {by_hand}") from None
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 != ARCHIVES[name].md5:
        raise ValueError(f"{url} has the MD5 {md5}, not {ARCHIVES[name].md5}; {by_hand}")
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _read(source: Path, name: str, size: int) -> Classes:
    def make() -> Classes:
        image = pillow("Image")

        def shrink(drawing: Any) -> Any:
            return drawing.resize((size, size), image.Resampling.NEAREST).convert("L")

        with opened(source) as (names, read):
            files = _by_character(names)
            _require_complete(source, name, files)
            classes = read_images(files, read, convert=shrink, shape=(1, size, size))
        return classes._replace(images=255 - classes.images)

    return cached("omniglot", fingerprint(source) | {"size": size}, make)


def _by_character(names: list[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in sorted(names):
        if match := DRAWING.search(name):
            files.setdefault(match[1], []).append(name)
    return files


def _require_complete(source: Path, name: str, files: dict[str, list[str]]) -> None:
    characters, images, _ = ARCHIVES[name]
    found = sum(len(group) for group in files.values())
    if (len(files), found) != (characters, images):
        raise ValueError(
            f"{source} has {len(files):,} of {characters:,} characters and {found:,} of "
            f"{images:,} images; get all of {URL.format(name)}"
        )
