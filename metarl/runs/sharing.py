"""Runs to give away and runs from elsewhere: known files alone, checked, and written anew."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from metarl.runs.config import RunConfig, to_json
from metarl.runs.folder import Run


MEDIA = (".png", ".gif", ".mp4")
OURS = ("metarl", "metarl.envs")
"""Modules that an environment's id may name, ``module:Name-v0``: importing them does nothing."""
ELSEWHERE: dict[str, Any] = {"track": "none", "data_root": None}
"""Settings of the machine that trained, which mean nothing on another."""
SAID = ("experiment", "config", "command", "changed_by", "versions")
"""What is kept of config.json."""


def require_known_module(run: Run, config: RunConfig, *, trusted: bool) -> None:
    """Make sure that building the environment of a run from elsewhere runs no unknown code.

    Gymnasium imports the module in front of an id, ``module:Name-v0``. One that this process has
    imported already is known.

    Raises:
        ValueError: If another would be imported, and is not trusted.
    """
    module, colon, _ = str(getattr(config, "env", "")).rpartition(":")
    if colon and module not in (*OURS, *sys.modules) and not trusted:
        raise ValueError(
            f"the environment of {run.folder} would import the module {module!r}, which runs its "
            "code; if you trust it, use trust_env, or import the module first"
        )


Copy: TypeAlias = Callable[[Run, int, Run, RunConfig], None]
"""``(run, iteration, new run, its configuration)``: writes a checkpoint into another run."""


def copy(
    run: Run,
    config: RunConfig,
    iteration: int,
    out: Path,
    copy_checkpoint: Copy,
    **about: Any,
) -> None:
    """Write a run with one checkpoint into a new folder, from what was understood of the old.

    Everything is read before it is written: settings by their types, tensors without what else
    their files hold. Pictures and videos are copied as they are.

    Args:
        run: The run.
        config: Its configuration.
        iteration: The checkpoint to keep.
        out: A folder that does not exist.
        copy_checkpoint: Copies the checkpoint.
        about: More to say in config.json.

    Raises:
        ValueError: If a file is damaged, or something else than its name says.
    """
    run.metrics(), run.evaluations()  # raise what is wrong with them
    known = {name: value for name, value in ELSEWHERE.items() if hasattr(config, name)}
    new, changed = Run(out), replace(config, **known)
    for folder in (new.checkpoint_path(0).parent, new.evaluation_path("").parent, out / "media"):
        folder.mkdir(parents=True)
    said = run.read_config() | {"config": to_json(changed)}
    new.write_config({name: said[name] for name in SAID if name in said} | about)
    copy_checkpoint(run, iteration, new, changed)
    for path in _as_they_are(run.folder):
        shutil.copyfile(path, out / path.relative_to(run.folder))


@contextmanager
def made(out: Path) -> Iterator[Path]:
    """Yield a path beside `out`, which becomes `out` if nothing goes wrong: never half a folder.

    Raises:
        FileExistsError: If there is something at `out`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".metarl-") as work:
        yield Path(work) / out.name
        if out.exists():
            out.rmdir()
        (Path(work) / out.name).rename(out)


def require_inside(run: Run, root: Path) -> None:
    """Make sure that no file of a run is a link that leads out of a folder.

    Raises:
        ValueError: If one is; a copy would hold a file that was never part of the run.
    """
    checkpoints = (run.folder / "checkpoints").glob("[0-9]*")
    for path in (run.folder / "config.json", *checkpoints, *_as_they_are(run.folder)):
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{path} is a link out of the run, to {path.resolve()}; remove it")


def _as_they_are(folder: Path) -> list[Path]:
    """List the files that are copied."""
    media = (path for path in (folder / "media").glob("[!.]*") if path.suffix in MEDIA)
    evaluations = (folder / "evaluations").glob("[!.]*.json")
    found = [folder / "metrics.jsonl", folder / "README.md", *evaluations, *media]
    return [path for path in found if path.is_file()]
