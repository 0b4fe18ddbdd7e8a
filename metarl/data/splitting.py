"""Splits of custom classes into training, validation and test classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from metarl.data import images
from metarl.util import parse_json


Names: TypeAlias = dict[str, list[str]]
"""Class names by split: ``train``, ``validation`` and ``test``."""

PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""Split for each name of a folder or list; ``val`` is an alternative name for ``validation``."""

NAMED = ("own", "all-train", "all-test")
"""Names of the splits that require no split file."""


def split_names(
    names: Sequence[str], split: str, given: Names | None, *, validation: bool = True
) -> Names:
    """Split class names into training, validation and test classes.

    Args:
        names: Names of all classes.
        split: ``own``, ``all-train`` or ``all-test``; or the path or the text
            of a split file, or a folder with lists of classes, see :func:`read_split`.
        given: Class names by split folder, used by ``own``; None if there are no split folders.
        validation: Whether ``own`` holds out random validation classes if `given` has none.

    Returns:
        Class names for the keys ``train``, ``validation`` and ``test``. A list can be empty.

    Raises:
        FileNotFoundError: If the split file does not exist.
        ValueError: If the split file is invalid.
    """
    if split in ("all-train", "all-test"):
        return {"train": [], "validation": [], "test": []} | {split[4:]: [*names]}
    if split != "own":
        return _selected(names, read_split(split))
    if given is None:
        train, held_out, test = images.split_randomly(names, validation=validation)
        return {"train": train, "validation": held_out, "test": test}
    train, held_out = given["train"], given.get("validation", [])
    if validation and "validation" not in given:
        train, held_out = images.hold_out_tenth(images.shuffled(train))
    return {"train": train, "validation": held_out, "test": given["test"]}


def read_split(split: str) -> Names:
    """Return the class names in a split file, or in a folder with one list of classes per split.

    A split file contains a JSON object with lists of class names, such as
    ``{"train": ["cat", "dog"], "validation": ["cow"], "test": ["fox"]}``. A
    folder contains ``train.txt``, ``validation.txt`` or ``val.txt``, and
    ``test.txt``, with one class name per line; the extension can also be ``.csv``.
    ``validation`` and ``test`` can be omitted. A name can also be a folder
    that contains classes, such as an alphabet. Classes that are not listed
    are not used.

    Args:
        split: Path of the file or folder, or the JSON text.

    Raises:
        FileNotFoundError: If the file or folder does not exist, or the folder has no lists.
        ValueError: If the contents are invalid.
    """
    text = split if split.lstrip().startswith("{") else _text(Path(split).expanduser())
    try:
        found = parse_json(text)
    except ValueError as error:
        raise ValueError(
            f"split file {split[:60]} is not valid JSON ({error}). Correct the syntax of the file"
        ) from None
    lists = isinstance(found, dict) and all(
        isinstance(group, list) and all(isinstance(name, str) for name in group)
        for group in found.values()
    )
    if not lists or not set(found) <= {"train", "validation", "test"} or not any(found.values()):
        raise ValueError(
            f"split file {split[:60]} must contain a JSON object with lists of class names at "
            f'"train", "validation" and "test", and at least one class, got {text.strip()[:60]!r}'
        )
    names: Names = {"train": [], "validation": [], "test": [], **found}
    return names


def _text(path: Path) -> str:
    if path.is_dir():
        return json.dumps(_lists(path))
    if not path.is_file():
        known = f"one of {', '.join(NAMED)}, or the path of a JSON file or of a folder with lists"
        raise FileNotFoundError(f"unknown split {str(path)!r}: expected {known} of classes")
    return path.read_text(encoding="utf-8")


def _lists(folder: Path) -> Names:
    files = [(part, folder / f"{n}{end}") for n, part in PARTS.items() for end in (".txt", ".csv")]
    found = [(part, file) for part, file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} contains no lists of classes: expected train.txt, val.txt and test.txt with "
            "one class name per line"
        )
    names: Names = {part: [] for part, _ in found}
    for part, file in found:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        names[part] += [line.strip() for line in lines if line.strip()]
    return names


def _selected(names: Sequence[str], wanted: Names) -> Names:
    found: Names = {}
    for part, entries in wanted.items():
        groups = {e: [n for n in names if n == e or n.startswith(f"{e}/")] for e in entries}
        if missing := [entry for entry, group in groups.items() if not group]:
            raise ValueError(
                f"class {missing[0]!r} in {part} of `split` has no folder: expected names such as "
                f"{', '.join(names[:3])}"
            )
        found[part] = sorted({name for group in groups.values() for name in group})
    images.require_disjoint(found, hint="Remove it from one of the two lists of `split`")
    return found
