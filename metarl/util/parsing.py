"""Parsing of JSON from files that may be damaged, and of names with typing errors."""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any


POINTER = b"version https://git-lfs"


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, and raise a ValueError if the input is invalid in any way.

    Args:
        text: JSON as text or as UTF-8, UTF-16 or UTF-32 bytes.

    Raises:
        JSONDecodeError: If the text is not valid JSON, or is nested too deeply.
        UnicodeDecodeError: If the bytes are not valid text. This exception and JSONDecodeError are
            subclasses of ValueError.

    Example::

        parse_json('{"seed": 0}')  # {"seed": 0}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("JSON is nested too deeply", "", 0) from None


def damage(path: Path, error: Exception) -> str:
    """Return the reason in one line why a file or folder cannot be read.

    Git LFS pointers, which ``git clone`` writes instead of large files without Git LFS, are
    detected, and in a folder JSON files that cannot be parsed.

    Args:
        path: The file, or a folder.
        error: The error that was raised while the file or folder was read.
    """
    with suppress(OSError):
        for file in filter(Path.is_file, sorted(path.iterdir()) if path.is_dir() else [path]):
            with file.open("rb") as opened:
                start = opened.read(len(POINTER))
            if start == POINTER:
                return f"{file.name} is a Git LFS pointer; run `git lfs pull` in its repository"
            if file != path and file.suffix == ".json" and not _is_json_object(file):
                return f"{file.name} does not contain a JSON object"
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_json_object(file: Path) -> bool:
    with suppress(ValueError):
        return isinstance(parse_json(file.read_bytes()), dict)
    return False


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; ``true`` and ``false`` are not numbers.

    Integers that are too large for a float are not numbers either.

    Example::

        is_number(1.5), is_number(True)  # (True, False)
    """
    fits = isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)
    return fits and not isinstance(value, bool)


def environment_integer(name: str, *, least: int = 0, default: int = 0) -> int:
    """Return the integer in an environment variable.

    Args:
        name: Name of the variable, such as ``"WORLD_SIZE"``.
        least: Minimum value.
        default: Value if the variable is not set or empty.

    Raises:
        ValueError: If the value is not an integer, or less than the minimum.

    Example::

        environment_integer("WORLD_SIZE", least=1, default=1)
    """
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"\s*\d{1,9}\s*", text) or int(text) < least:
        raise ValueError(
            f"the environment variable {name} must be an integer of at least {least}, got "
            f"{text!r}. Unset it, or start the command with torchrun"
        )
    return int(text)


def module_function(name: str) -> tuple[str, str] | None:
    """Return the module and the function in a name ``module:function``; None for other names.

    Example::

        module_function("my.models:lite0")  # ("my.models", "lite0")
    """
    found = re.fullmatch(r"([^\W\d][\w.]*):(\w+)", name)
    return (found[1], found[2]) if found else None


def closest(name: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that starts with `name` or is similar to it, or None.

    Args:
        name: Unknown name, such as an abbreviation or a typing error.
        known: Known names. The first one that starts with `name` takes precedence.
        cutoff: Lowest similarity, from 0 to 1.

    Example::

        closest("maml", ["promp", "maml-trpo"])  # "maml-trpo"
        closest("prmop", ["promp", "maml-trpo"])  # "promp"
    """
    longer = [each for each in known if name and each.startswith(name)]
    return next(iter(longer or get_close_matches(name, known, 1, cutoff)), None)
