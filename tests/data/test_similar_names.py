"""Class names that differ only in white space or case are warned about."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from metarl.data.folders import find_classes
from metarl.data.inputs import find_examples
from metarl.text import read_tasks


def image_folder(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).mkdir()
        Image.new("L", (8, 8)).save(root / name / "1.png")
    find_classes(root)


def support_folder(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).mkdir()
        Image.new("L", (8, 8)).save(root / name / "1.png")
    find_examples(root)


def text_task(root: Path, names: list[str]) -> None:
    rows = [{"sentence1": f"a {name}", "label": name} for name in names]
    (root / "colors.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read_tasks(root, ["colors"])


@pytest.mark.parametrize("read", [image_folder, support_folder, text_task])
@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["red", "red ", "green", "blue"], "the classes 'red' and 'red '"),
        (["Red", "green", "red", "blue"], "the classes 'Red' and 'red'"),
        (["dark red", "dark  red", "blue"], "the classes 'dark  red' and 'dark red'"),
        (["red", " red", "blue"], "the classes ' red' and 'red'"),
        (["dark red", "dark\xa0red", "blue"], r"the classes 'dark red' and 'dark\xa0red'"),
        (["red", "re\u200bd", "blue"], r"the classes 'red' and 're\u200bd'"),
        (["ros\xe9", "rose\u0301", "blue"], r"the classes 'rose\u0301' and 'ros\xe9'"),
        (["red", "green", "blue"], ""),
    ],
)
def test_similar_class_names_are_warned_about(
    read: Callable[[Path, list[str]], None], names: list[str], warned: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    read(tmp_path, names)
    printed = capsys.readouterr().err
    if not warned:
        assert printed == ""
        return
    (line,) = printed.splitlines()
    assert warned in line
    assert "differ only in white space, case or Unicode form. Rename one of them" in line
