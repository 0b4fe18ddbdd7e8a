"""Damaged or mislabeled image and text files: they load, or give a one-line error."""

import csv
import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.data import omniglot
from metarl.data.families import load_images
from metarl.text.files import find_tasks, read_tasks
from tests.support.robustness import cases, clear, damaged_bytes, end_of, in_time, json_values


PIL = pytest.importorskip("PIL.Image", reason="pip install 'metarl-torch[vision]'")
NAMES = ["a", "é ü", "日本", "with space", "-flag", "A", "val", "train", "%d", "'quotes'", "a.b"]
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP"}
MODES = ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "LA"]
SIZE = 6


def picture(mode: str, size: tuple[int, int], suffix: str) -> bytes:
    data = io.BytesIO()
    kind = FORMATS[suffix]
    suits = {"JPEG": ("L", "RGB", "CMYK"), "BMP": ("L", "RGB", "P", "1"), "GIF": ("L", "P", "RGB")}
    image = PIL.new(mode if mode in suits.get(kind, MODES[:5]) else "L", size)
    image.save(data, kind)
    return data.getvalue()


@st.composite
def images(draw: st.DrawFn, suffix: str) -> bytes:
    """Generate the contents of an image file, valid or damaged."""
    size = draw(st.sampled_from([(5, 5), (1, 9), (300, 2), (1, 1)]))
    whole = picture(draw(st.sampled_from(MODES)), size, suffix)
    kind = draw(st.sampled_from(["whole"] * 6 + ["damaged", "empty", "other", "text"]))
    if kind == "whole":
        return whole
    if kind == "damaged":
        return draw(damaged_bytes(whole))
    return {"empty": b"", "other": picture("L", (3, 3), ".png"), "text": b"# notes\n"}[kind]


@st.composite
def trees(draw: st.DrawFn, root: Path) -> Path:
    """Generate a folder of class folders with unrelated files."""
    parts = draw(st.sampled_from([("",), ("",), ("train", "test"), ("train", "val", "test")]))
    for part in parts:
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(draw(st.integers(0, 3))):
                suffix = draw(st.sampled_from(sorted(FORMATS)))
                (folder / f"{index}{suffix}").write_bytes(draw(images(suffix)))
    odd = draw(st.sampled_from(["", "", "broken link", "loops", "nested", "file", "folder"]))
    folder = next(path for path in sorted(root.rglob("*")) if path.is_dir())
    if odd == "broken link":
        (folder / "link.png").symlink_to("nowhere.png")
    elif odd == "loops":
        for index, path in enumerate(sorted(path for path in root.rglob("*") if path.is_dir())):
            (path / f"loop {index}").symlink_to(root)
        (folder / "itself.png").symlink_to("itself.png")
    elif odd == "nested":
        (folder / "deeper" / "deepest").mkdir(parents=True)
    elif odd == "file":
        (root / "a file.png").write_bytes(b"")
    elif odd == "folder":
        (folder / "folder.png").mkdir()
    return root


def emptied(factory: pytest.TempPathFactory, name: str) -> Path:
    folder = factory.getbasetemp() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def read(load: Callable[[], Any]) -> Any:
    """Load data, or check that the error is clear."""
    try:
        with in_time():
            return load()
    except (ValueError, OSError) as error:
        clear(" ".join(str(error).split()))  # as the command line prints it
    return None


@cases(0.25)
@given(data=st.data())
def test_image_folders(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = data.draw(trees(emptied(tmp_path_factory, "pictures")))
    splits = read(lambda: load_images("folder", data_root=root, image_size=SIZE))
    if splits is not None:
        assert all(len(classes.names) and min(classes.counts) for classes in splits)
        assert all(classes.images.shape[-2:] == (SIZE, SIZE) for classes in splits)


@cases(0.05)
@given(data=st.data())
def test_training_on_image_folders(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = data.draw(trees(emptied(tmp_path_factory, "pictures")))
    out = emptied(tmp_path_factory, "trained") / "run"
    tiny = ["--num-tasks", 1, "--validation-tasks", 1, "--filters", 2, "--image-size", 16]
    tiny += ["--mode", "eager", "--iterations", 1, "--checkpoint-every", 1, "--log-every", 1]
    words = ["train", "fewshot", "--data", "folder", "--ways", 2, "--test-queries", 1, *tiny]
    done = end_of(*words, "--data-root", root, "--out", out)
    assert out.exists() == (done.code == 0)


LABELS = {"train": ["cat", "dog"], "val": ["cow"], "test": ["é ü", "pig"]}


@cases(0.15)
@given(data=st.data())
def test_tables_of_mini_imagenet(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = emptied(tmp_path_factory, "miniimagenet")
    (root / "images").mkdir()
    for part, labels in LABELS.items():
        rows = [(f"{label} {index}.jpg", label) for label in labels for index in range(2)]
        for name, _ in rows:
            (root / "images" / name).write_bytes(picture("RGB", (5, 4), ".jpg"))
        table = io.StringIO(newline="")
        csv.writer(table).writerows([("filename", "label"), *rows])
        (root / f"{part}.csv").write_text(table.getvalue())
    files = sorted(path for path in root.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    change = data.draw(st.sampled_from(["damage", "remove", "columns", "label", "zip", "folder"]))
    if change == "damage":
        file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    elif change in ("columns", "label"):
        words = (
            ("label", "kind") if change == "columns" else ("pig", data.draw(st.text(max_size=3)))
        )
        file = root / "test.csv"
        file.write_text(file.read_text().replace(*words), errors="surrogatepass", newline="")
    elif change == "zip":
        whole = gzip.compress(file.read_bytes())
        file.with_name(file.name + ".gz").write_bytes(data.draw(damaged_bytes(whole)))
        file.unlink()
    else:
        file.unlink()
        if change == "folder":
            file.mkdir()
    read(lambda: load_images("mini-imagenet", data_root=root, image_size=SIZE))


@cases(0.1)
@given(data=st.data())
def test_archives_of_omniglot(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = emptied(tmp_path_factory, "omniglot")
    archives = {name: (20, 20, "") for name in omniglot.ARCHIVES}
    monkeypatch.setattr(omniglot, "ARCHIVES", archives)
    drawing = picture("1", (4, 4), ".png")
    for number, name in enumerate(archives):
        with zipfile.ZipFile(root / f"{name}.zip", "w", data.draw(st.sampled_from([0, 8]))) as file:
            for index in range(20):
                path = f"{name}/Alphabet{number}/character{index:02d}/{index:04d}_01.png"
                file.writestr(path, drawing)
    chosen = root / f"{data.draw(st.sampled_from(sorted(archives)))}.zip"
    chosen.write_bytes(data.draw(damaged_bytes(chosen.read_bytes())))
    split = data.draw(st.sampled_from(["background", "vinyals", "random"]))
    read(lambda: load_images("omniglot", data_root=root, split=split, image_size=SIZE))


@st.composite
def rows(draw: st.DrawFn) -> Any:
    """Generate a valid or invalid row of a text task."""
    whole = {"sentence1": draw(st.text(max_size=5)), "label": draw(st.sampled_from(["x", "y", 1]))}
    if draw(st.integers(0, 9)):
        return whole
    return draw(json_values | st.just({**whole, "sentence2": draw(json_values)}))


@cases(0.25)
@given(data=st.data())
def test_text_tasks(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = emptied(tmp_path_factory, "text")
    name = data.draw(
        st.sampled_from(["t.json", "t.jsonl", "t.json.gz", "t_train_0_4.json", "t.JSON"])
    )
    some = data.draw(st.lists(rows(), max_size=6))
    content: Any = some
    if data.draw(st.booleans()):
        content = {"eval": data.draw(st.just(some) | json_values), "train/4shot/0": some}
    text = "\n".join(map(json.dumps, some)) if "jsonl" in name else json.dumps(content)
    if not data.draw(st.integers(0, 19)):
        text = "[" * 100_000
    raw = text.encode()
    raw = gzip.compress(raw) if name.endswith("gz") else raw
    if data.draw(st.booleans()) and raw:
        raw = data.draw(damaged_bytes(raw))
    (root / name).write_bytes(raw)
    if not data.draw(st.integers(0, 9)):
        (root / "t.eval.jsonl").mkdir()
    found = read(lambda: read_tasks(root, find_tasks(root)))
    for task in found or ():
        assert len(task.labels) > 1
        read(lambda task=task: task.sample(1, 0))
        read(task.require_evaluation)
        task.train_validation_rows()


def test_broken_and_cyclic_links_are_ignored(tmp_path: Path) -> None:
    """Following cyclic links would never end."""
    for name in "abcdef":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(picture("L", (5, 5), ".png"))
        (tmp_path / name / "up").symlink_to(tmp_path)
        (tmp_path / name / "nowhere.png").symlink_to("nothing")
        (tmp_path / name / "itself.png").symlink_to("itself.png")
    with in_time(60):
        splits = load_images("folder", data_root=tmp_path, image_size=SIZE)
    assert sum(len(classes.images) for classes in splits) == 6
