"""Copies of runs for sharing, which contain only files that belong to a run."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from metarl.runs.config import RunConfig, to_json
from metarl.runs.folder import Run
from metarl.runs.loading import read_chosen
from metarl.runs.lock import locked
from metarl.util import module_function


MEDIA = (".png", ".gif", ".mp4")
TRUSTED = ("metarl", "metarl.envs")
"""Modules that may always be imported for an environment ID ``module:Name-v0`` in a shared run."""
REPLACED: dict[str, Any] = {"track": "none", "data_root": None}
"""Settings that only apply to the training machine, with the values that replace them in a copy."""
KEPT = ("experiment", "config", "command", "changed_by", "versions", "spaces")
"""Keys of config.json that a copy contains."""
COMMANDS = {"command", "changed_by"}
"""Keys of config.json and of evaluations with command lines."""


def require_known_module(
    run: Run, config: RunConfig, *, trusted: bool, downloaded: bool = False
) -> None:
    """Raise a ValueError if the environment or encoder of a shared run imports an unknown module.

    Gymnasium imports the module in an environment ID ``module:Name-v0``, and so runs its code. An
    encoder ``module:function`` is imported and called.
    Modules are imported for runs that were trained on this machine. For a run that was pulled or
    downloaded, they are only imported if the user trusts them: with `trusted`, or because they were
    trusted when the run was pulled. Environments in a module that this process has already
    imported are accepted.

    Args:
        run: The run.
        config: Configuration of the run.
        trusted: Whether to accept any module.
        downloaded: Whether the run was downloaded from a hub just now.

    Raises:
        ValueError: If an unknown module would be imported.

    Example::

        run = Run.open(Path("runs/quick"))
        config = metarl.experiments.experiment_of(run).config
        require_known_module(run, config, trusted=False)
    """
    about = run.read_config()
    pulled = downloaded or "pulled_from" in about
    trusted = trusted or (not downloaded and about.get("trust_env") is True)
    module = module_of(config)
    # Any function of an imported module could be the encoder, but only environments have IDs.
    known = () if encoder_function(config) else (*TRUSTED, *sys.modules)
    kind = "environment" if known else "encoder"
    if module and module not in known and pulled and not trusted:
        raise ValueError(
            f"the {kind} of {run.folder} would import the module {module!r} of a pulled run and "
            "run its code. If you trust the module, set trust_env"
            f"{' or import it first' if known else ''}"
        )


def module_of(config: RunConfig) -> str:
    """Return the module of a run's environment ID or encoder, or ``""`` if there is none.

    Environment IDs have the form ``module:Name-v0``, and encoders ``module:function``.
    """
    function = encoder_function(config)
    return function[0] if function else str(getattr(config, "env", "")).rpartition(":")[0]


def encoder_function(config: RunConfig) -> tuple[str, str] | None:
    """Return the module and the function of an encoder ``module:function``; None for others."""
    return module_function(getattr(config, "encoder", None) or "")


def trust(run: Run) -> None:
    """Record in config.json that the module of a pulled run's environment is trusted."""
    if "pulled_from" in (about := run.read_config()):
        run.write_config(about | {"trust_env": True})


def copy(
    run: Run,
    config: RunConfig,
    checkpoint: int | None,
    out: Path,
    copy_checkpoint: Callable[..., None],
    **about: Any,
) -> int:
    """Copy a run with a single checkpoint to a new folder.

    The configuration and the tensors are parsed and written again, so that
    unknown contents of the files are not copied. Metrics, the model card,
    images and videos are copied unchanged. In the copied evaluations, the
    command lines contain no local paths, see :func:`without_paths`.

    Args:
        run: The run.
        config: Configuration of the run.
        checkpoint: Iteration of the checkpoint to copy; None for the last checkpoint.
        out: The new folder; it must not exist.
        copy_checkpoint: Function that copies the checkpoint, with the
            signature ``copy_checkpoint(run, iteration, new, config)``.
        about: Additional entries for config.json.

    Returns:
        The iteration of the copied checkpoint.

    Raises:
        ValueError: If a file is damaged, or the run does not have the checkpoint.

    Example::

        run = Run.open(Path("runs/quick"))
        experiment = metarl.experiments.experiment_of(run)
        copy(run, experiment.config, None, Path("shared"), experiment.copy)
    """
    run.metrics(), run.evaluations()  # raise a ValueError if a file is damaged
    known = {name: value for name, value in REPLACED.items() if hasattr(config, name)}
    if Path(encoder := getattr(config, "encoder", None) or "").is_absolute():
        known["encoder"] = Path(encoder).name
    new, changed = Run(out), replace(config, **known)
    for folder in (new.checkpoint_path(0).parent, new.evaluation_path("").parent, out / "media"):
        folder.mkdir(parents=True)
    entries = run.read_config() | {"config": to_json(changed)}
    new.write_config(_scrubbed({name: entries[name] for name in KEPT if name in entries}) | about)
    to = {"new": new, "config": changed}
    iteration, _ = read_chosen(run, checkpoint, partial(copy_checkpoint, **to))
    for path in _copied_files(run.folder):
        shutil.copyfile(path, out / path.relative_to(run.folder))
    for path in out.glob("evaluations/*.json"):
        path.write_text(json.dumps(_scrubbed(json.loads(path.read_bytes())), indent=2) + "\n")
    return iteration


def without_paths(command: str) -> str:
    """Return a command line without the paths of the machine on which it was run.

    The values of ``--data-root`` and of ``--split FILE.json`` are replaced
    with ``DIR`` and ``FILE.json``. Other absolute paths are reduced to their
    last component.

    Args:
        command: The command line, as recorded in config.json and in evaluations.

    Example::

        without_paths("metarl train text --data-root me/data --out /srv/runs/quick")
        # "metarl train text --data-root DIR --out quick"
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an unknown program may have written the file
        return ""
    return shlex.join(_without_path(before, word) for before, word in pairwise(["", *words]))


def _without_path(before: str, word: str) -> str:
    """Return the argument `word` of a command line without a local path.

    The previous argument, `before`, may be the flag to which `word` belongs.
    """
    own = word.startswith("--") and "=" in word.split()[0]
    flag, equals, value = word.partition("=") if own else (before, "", word)
    named = flag.replace("_", "-")
    if re.search(r"(^|\s)--\S+[\s=]", value):  # a quoted command line, as in `metarl compare`
        value = without_paths(value)
    elif named == "--data-root":
        value = "DIR"
    elif named == "--split" and value.endswith(".json"):
        value = "FILE.json"
    elif re.match(r"[/~\\]|[A-Za-z]:[/\\]", value):
        value = re.split(r"[/\\]", value.rstrip("/\\"))[-1] or "DIR"
    return f"{flag}={value}" if equals else value


def _scrubbed(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a JSON file without local paths in command lines.

    Command lines that are not text are dropped.
    """
    kept = {name: value for name, value in entries.items() if name not in COMMANDS}
    for name in COMMANDS & {*entries}:
        lines = entries[name]
        if isinstance(lines, str):
            kept[name] = without_paths(lines)
        elif isinstance(lines, list):
            kept[name] = [without_paths(line) for line in lines if isinstance(line, str)]
    return kept


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `out` if the context ends without an error.

    A process that is killed leaves the folder ``.metarl-NAME`` next to `out`, where NAME is the
    name of `out`. The next call with the same `out` deletes it.

    Args:
        out: The new folder; it must be empty or not exist.

    Yields:
        A path that does not exist yet, on the same file system as `out`.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        RuntimeError: If another process creates the same folder.

    Example::

        with new_folder(Path("shared")) as folder:
            folder.mkdir()
        Path("shared").is_dir()  # True
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder. Choose a different folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".metarl-{out.resolve().name}"
    work.mkdir(exist_ok=True)
    with locked(work):
        folder = work / "new" / out.resolve().name
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        try:
            yield folder
            if out.exists():
                out.rmdir()
            folder.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def require_inside(run: Run, root: Path) -> None:
    """Raise a ValueError if a file of a run is a symbolic link to a target outside a folder.

    A copy of the run would otherwise contain a file that is not part of the run.

    Args:
        run: The run.
        root: Folder that must contain the targets of all links.

    Raises:
        ValueError: If a link points outside `root`.

    Example::

        require_inside(Run.open(Path("runs/quick")), Path("runs/quick"))
    """
    checkpoints = (run.folder / "checkpoints").glob("[0-9]*")
    for path in (run.folder / "config.json", *checkpoints, *_copied_files(run.folder)):
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, outside the run folder. Remove the link"
            )


def _copied_files(folder: Path) -> list[Path]:
    """Return the files in a run folder that :func:`copy` copies unchanged."""
    media = (path for path in (folder / "media").glob("[!.]*") if path.suffix in MEDIA)
    evaluations = (folder / "evaluations").glob("[!.]*.json")
    found = [folder / "metrics.jsonl", folder / "README.md", *evaluations, *media]
    return [path for path in found if path.is_file() and path.stat().st_size]
