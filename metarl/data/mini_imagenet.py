"""miniImageNet: 100 classes with 600 photographs each, split as in Ravi & Larochelle (2017)."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metarl.data.cache import cached, fingerprint
from metarl.data.images import Classes, Splits, read_images, require_disjoint, to_square


HEADER = ["filename", "label"]


def read(tables: Sequence[Path], image_size: int) -> Splits:
    """Read miniImageNet from tables of image files: 64 training, 16 validation and 20 test classes.

    Photographs of any size are converted to RGB and resized to a square with
    bilinear interpolation.

    Args:
        tables: CSV files with the training, validation and test images, with
            the header ``filename,label``, optionally compressed as
            ``.csv.gz``. The photographs are in the folder ``images`` next to
            the tables.
        image_size: Height and width in pixels; 84 in Ravi & Larochelle (2017).

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, channels, image_size, image_size) on the CPU.

    Raises:
        OSError: If images are missing.
        ValueError: If a table or an image is damaged, or a class is in two tables.
    """
    folder = tables[0].parent / "images"
    parts = {table: _read_table(table, folder) for table in tables}
    require_disjoint(parts, hint=f"Download the tables in {folder.parent} again")
    files = [file for part in parts.values() for group in part.values() for file in group]
    present = set(folder.iterdir()) if folder.is_dir() else set()
    if missing := [file for file in files if file not in present]:
        raise FileNotFoundError(
            f"{len(missing):,} of the {len(files):,} images are missing in {folder} (first: "
            f"{missing[0].name}). Add the missing images; they require a license, see "
            "https://image-net.org"
        )
    source = {"images": fingerprint(folder), "size": image_size}

    def part(table: Path) -> Classes:
        key = source | {"table": fingerprint(table)}
        convert = partial(to_square, mode="RGB", size=image_size)
        make = partial(read_images, parts[table], convert, channels=3, size=image_size)
        return cached("mini-imagenet", key, make)

    return Splits(*map(part, tables))


def _read_table(table: Path, folder: Path) -> dict[str, list[Path]]:
    """Return the image files listed in a table, by class name in sorted order.

    Args:
        table: CSV file with the columns ``filename`` and ``label``.
        folder: Folder with the images.
    """
    open_text: Any = gzip.open if table.suffix == ".gz" else open
    try:
        with open_text(table, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{table} is not a CSV table ({error}). Download the table again"
        ) from None
    wrong = [row for row in rows if len(row) != len(HEADER)]
    if wrong or rows[:1] != [HEADER] or len(rows) == 1:
        raise ValueError(
            f"{table} is not a table of images: expected the header filename,label and one row per "
            f"image, got {len(rows)} rows such as {(wrong or rows or [[]])[0]}"
        )
    files: dict[str, list[Path]] = {label: [] for label in sorted({label for _, label in rows[1:]})}
    for name, label in rows[1:]:
        files[label].append(folder / name)
    return files
