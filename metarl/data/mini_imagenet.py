"""miniImageNet: 100 classes of 600 photographs, split as by Ravi & Larochelle (2017)."""

import csv
import gzip
import os
import zlib
from pathlib import Path
from typing import Any

from metarl.data.cache import cached, fingerprint
from metarl.data.images import (
    Classes,
    Splits,
    find_data,
    pillow,
    read_images,
    require_disjoint,
)


PARTS = ("train", "val", "test")
HEADER = ["filename", "label"]


def load(root: Path | None, *, split: str, image_size: int) -> Splits:
    """Read miniImageNet: 64 classes to train on, 16 for validation, 20 to test on.

    Photographs of any size are squeezed to a square in RGB by bilinear interpolation. The images
    need ImageNet's licence and are not downloaded.

    Args:
        root: The folder that contains ``miniimagenet/``, or that folder; in it ``train.csv``,
            ``val.csv`` and ``test.csv`` (or ``.csv.gz``) with rows ``filename,label``, and the
            folder ``images`` with those files. ``None``: ``METARL_DATA``.
        split: ``ravi``, the only one.
        image_size: Height and width; 84 in the papers.

    Raises:
        OSError: If files are missing.
        ValueError: If a table is damaged, or a class is in two of them.
    """
    folder = _folder(root)
    tables = [_table(folder, part) for part in PARTS]
    files = [_read_table(table) for table in tables]
    parts = {table.name: group for table, group in zip(tables, files, strict=True)}
    require_disjoint(parts, hint=f"get the tables of {folder} again")
    images = folder / "images"
    _require_present(images, files)
    source = fingerprint(images, walk=False)  # of 60,000 files
    return Splits(
        *(
            _read(images, group, source | {"table": fingerprint(table), "size": image_size})
            for table, group in zip(tables, files, strict=True)
        )
    )


def _read(images: Path, files: dict[str, list[str]], source: dict[str, Any]) -> Classes:
    size = source["size"]

    def make() -> Classes:
        image = pillow("Image")

        def squeeze(photograph: Any) -> Any:
            return photograph.convert("RGB").resize((size, size), image.Resampling.BILINEAR)

        def read(name: str) -> bytes:
            return (images / name).read_bytes()

        return read_images(files, read, convert=squeeze, shape=(3, size, size))

    return cached("mini-imagenet", source, make)


def _folder(root: Path | None) -> Path:
    def holds(folder: Path) -> bool:
        return any(path.exists() for part in PARTS for path in _places(folder, part))

    if found := find_data(root, "miniimagenet", holds=holds):
        return found
    where = root or os.environ.get("METARL_DATA") or "--data-root, which was not given"
    raise FileNotFoundError(
        f"mini-imagenet is not in {where}: expected a folder that contains miniimagenet/ with "
        "train.csv, val.csv, test.csv and images/"
    )


def _places(folder: Path, part: str) -> tuple[Path, Path]:
    return folder / f"{part}.csv", folder / f"{part}.csv.gz"


def _table(folder: Path, part: str) -> Path:
    for place in _places(folder, part):
        if place.exists():
            return place
    raise FileNotFoundError(f"{folder} lacks {part}.csv; it needs train.csv, val.csv and test.csv")


def _read_table(table: Path) -> dict[str, list[str]]:
    open_text: Any = gzip.open if table.suffix == ".gz" else open
    try:
        with open_text(table, "rt", encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a table ({error}); get it again") from None
    if header != HEADER or not rows:
        raise ValueError(
            f"{table} starts with {','.join(header)!r} and has {len(rows)} rows; expected the "
            "header 'filename,label' and a row for each image"
        )
    return _by_label(table, rows)


def _by_label(table: Path, rows: list[list[str]]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(HEADER):
            raise ValueError(f"{table}, line {number}: expected filename,label, got {row}")
        files.setdefault(row[1], []).append(row[0])
    return {label: files[label] for label in sorted(files)}


def _require_present(images: Path, files: list[dict[str, list[str]]]) -> None:
    wanted = [name for group in files for names in group.values() for name in names]
    present = set(os.listdir(images)) if images.is_dir() else set()
    if missing := [name for name in wanted if name not in present]:
        raise FileNotFoundError(
            f"{images} lacks {len(missing):,} of the {len(wanted):,} images, the first is "
            f"{missing[0]}; they need ImageNet's licence, see https://image-net.org"
        )
