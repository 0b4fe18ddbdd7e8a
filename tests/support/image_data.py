"""Image data on disk: the real Omniglot if available, and a small miniImageNet."""

import gzip
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metarl.data.images import Classes
from tests.support import ROOT


KNOWN = ROOT.parent / "shared/data"  # the developers' data folder
OMNIGLOT = Path(os.environ.get("METARL_DATA", KNOWN)) / "omniglot"
NO_OMNIGLOT = "needs Omniglot: METARL_DATA=FOLDER with omniglot/ in it"
needs_omniglot = pytest.mark.skipif(not OMNIGLOT.is_dir(), reason=NO_OMNIGLOT)
TABLES = {"train": ["n03", "n01"], "val": ["n02"], "test": ["n04"]}


def paint(path: Path, color: Any, *, mode: str = "RGB", size: tuple[int, int] = (9, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def same(a: Classes, b: Classes) -> bool:
    return torch.equal(a.images, b.images) and a[1:] == b[1:]


def mini_imagenet(
    root: Path, tables: Mapping[str, Sequence[str]] = TABLES, *, zipped: bool = False
) -> Path:
    """Write classes of three images in the published layout; class n04 is grayscale."""
    folder = root / "miniimagenet"
    for part, labels in tables.items():
        rows = [f"{label}{index:08d}.jpg,{label}" for index in range(3) for label in labels]
        text = "\n".join(["filename,label", *rows]) + "\n"
        for row in rows:
            name, label = row.split(",")
            gray = label == "n04"
            color = 40 if gray else (50 * int(label[1:]), 0, 200)
            size = (30 + len(rows), 20)
            paint(folder / "images" / name, color, mode="L" if gray else "RGB", size=size)
        if zipped:
            (folder / f"{part}.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{part}.csv").write_text(text)
    return folder


def numbered(counts: dict[str, int]) -> Classes:
    """Create classes whose images are filled with 0, 1, 2, ..."""
    total = sum(counts.values())
    pixels = torch.arange(total, dtype=torch.uint8)[:, None, None, None].expand(total, 1, 2, 2)
    return Classes(pixels.contiguous(), tuple(counts.values()), tuple(counts))
