"""Folders that contain a run, several runs or none."""

import re
from pathlib import Path

from metarl.util import closest


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders in `folder`, in the order of their names and numbers.

    A folder without runs in it is returned itself, for example because it is a run.
    """
    found = [path.parent for path in folder.glob("*/config.json")]
    if (folder / "config.json").is_file() or not found:
        return [folder]
    return sorted(found, key=lambda path: re.sub(r"\d+", lambda n: n[0].zfill(9), path.name))


def require_run(folder: Path) -> None:
    """Raise a FileNotFoundError with the next step if `folder` contains no run."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} contains no run: expected config.json. {_advice(folder)}"
        )


def _advice(folder: Path) -> str:
    if str(folder).startswith("hub:"):
        return f"Create a run with `metarl pull {folder} --out RUN`"
    if {*"*?["} & {*str(folder)}:
        return "No folder matches this pattern"
    if (inside := runs_in(folder)) != [folder]:
        return f"Name one of the runs in it, such as {inside[0]}"
    beside = [path.name for path in runs_in(folder.parent) if path != folder.parent]
    if similar := closest(folder.name, beside):
        return f"Did you mean {folder.parent / similar}?"
    return f"Create a run with `metarl train maml-trpo --out {folder}`"


def require_empty(folder: Path) -> None:
    """Raise a FileExistsError if `folder` contains a run or other files."""
    if (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} already contains a run. Continue it with `metarl resume {folder}` "
            "or choose a different folder"
        )
    # A process that was killed before it wrote config.json leaves a lock and a hidden file.
    found = folder.iterdir() if folder.is_dir() else [folder] if folder.exists() else ()
    if not all(path.name == "lock" or path.name.startswith(".") for path in found):
        raise FileExistsError(f"{folder} is not an empty folder. Choose a different folder")
