"""miniImageNet: 100 classes of 600 photographs, split as by Ravi & Larochelle (2017)."""

import csv
import gzip
import os
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from metarl.data.cache import cached, fingerprint
from metarl.data.images import (
    Classes,
    Splits,
    find_files,
    read_images,
    require_disjoint,
    resize_square,
)


PARTS = ("train", "val", "test")
HEADER = ["filename", "label"]


def load(data_root: Path | None, *, split: str, image_size: int) -> Splits:
    """Read miniImageNet: 64 classes to train on, 16 for validation, 20 to test on.

    Photographs of any size are squeezed to a square in RGB by bilinear interpolation. The images
    need ImageNet's licence and are not downloaded.

    Args:
        data_root: The folder that contains ``miniimagenet/``, or that folder; in it ``train.csv``,
            ``val.csv`` and ``test.csv`` (or ``.csv.gz``) with rows ``filename,label``, and the
            folder ``images`` with those files. ``None``: ``METARL_DATA``.
        split: ``ravi``, the only one.
        image_size: Height and width; 84 in the papers.

    Raises:
        OSError: If files are missing.
        ValueError: If a table is damaged, or a class is in two of them.
    """
    tables = find_files(data_root, "miniimagenet", [(f"{p}.csv", f"{p}.csv.gz") for p in PARTS])
    if not tables:
        raise FileNotFoundError(
            "data_root must contain miniimagenet/ with train.csv, val.csv, test.csv and images/, "
            f"got {data_root or os.environ.get('METARL_DATA')}"
        )
    folder = tables[0].parent / "images"
    parts = {table: _read_table(table, folder) for table in tables}
    require_disjoint(parts, hint=f"get the tables of {folder.parent} again")
    files = [file for part in parts.values() for group in part.values() for file in group]
    present = set(folder.iterdir()) if folder.is_dir() else set()
    if missing := [file for file in files if file not in present]:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing):,} of the {len(files):,} images, the first is "
            f"{missing[0].name}; they need ImageNet's licence, see https://image-net.org"
        )
    source = {"images": fingerprint(folder), "size": image_size}

    def part(table: Path) -> Classes:
        key = source | {"table": fingerprint(table)}
        convert = partial(resize_square, mode="RGB", size=image_size)
        make = partial(read_images, parts[table], convert, channels=3, size=image_size)
        return cached("mini-imagenet", key, make)

    return Splits(*map(part, tables))


def _read_table(table: Path, folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, the classes sorted."""
    open_text: Any = gzip.open if table.suffix == ".gz" else open
    try:
        with open_text(table, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a table ({error}); get it again") from None
    wrong = [row for row in rows if len(row) != len(HEADER)]
    if wrong or rows[:1] != [HEADER] or len(rows) == 1:
        raise ValueError(
            f"{table} is no table of images: expected the header filename,label and its rows, got "
            f"{len(rows)} rows such as {(wrong or rows or [[]])[0]}"
        )
    files: dict[str, list[Path]] = {label: [] for label in sorted({label for _, label in rows[1:]})}
    for name, label in rows[1:]:
        files[label].append(folder / name)
    return files
