"""The run folder: everything that a run leaves on disk, and the only code that writes it.

::

    config.json      experiment, configuration, command, versions
    metrics.jsonl    one line per iteration
    checkpoints/     00000000.safetensors (the initialization), 00000010.safetensors, ...; those of
                     Stable-Baselines3 are its own, 00000010.zip
    evaluations/     one JSON file per evaluation
    media/           pictures and videos; those of --media-every begin with the iteration
    tracking/        TensorBoard or wandb files, if asked for, and the id of the run at wandb
    lock             held by the process that trains
"""

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metarl.core.speed import processes
from metarl.runs.checkpoint import write_atomically
from metarl.runs.lock import holding, is_held
from metarl.runs.records import read_evaluation, read_line
from metarl.runs.stopping import Stopped
from metarl.util import parse_json


CHECKPOINTS = (".safetensors", ".zip")
"""Suffixes of checkpoints."""


@dataclass(frozen=True)
class Run:
    """A run folder that exists."""

    folder: Path

    @classmethod
    @contextmanager
    def create(cls, folder: Path, experiment: str, config: dict[str, Any]) -> Iterator["Run"]:
        """Make a new run folder and hold it for writing.

        A run that fails before it has trained anything leaves nothing behind: what is wrong with it
        can be mended, and the same command typed again.

        Raises:
            FileExistsError: If `folder` holds a run, or anything else.
            RuntimeError: If another process is making a run of it.
        """
        run = cls(folder)
        if not processes.writes():
            yield run
            return
        _require_empty(folder)
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with run.lock():
            _require_empty(folder)  # a different process may have come and gone since
            about = {"experiment": experiment, "config": config}
            run.write_config(about | {"command": command(), "versions": versions()})
            try:
                yield run
            except Exception as error:
                if not isinstance(error, OSError | Stopped):  # after those, a run can be resumed
                    run.discard_untrained(new=new)
                raise

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run folder.

        Raises:
            FileNotFoundError: If there is no run in `folder`.
        """
        if not (folder / "config.json").is_file():
            shared = str(folder).startswith("hub:")
            verb = f"pull {folder} --out RUN" if shared else f"train maml-trpo --out {folder}"
            raise FileNotFoundError(
                f"{folder} contains no run (no config.json); make one with `metarl {verb}`"
            )
        return cls(folder)

    def discard_untrained(self, *, new: bool) -> None:
        """Empty the folder if no iteration was logged, and remove it if it is `new`.

        A different run that has replaced this one keeps its files.
        """
        if not is_held(self.folder) or any(entry["iteration"] for entry in self.metrics()):
            return
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new:
            self.folder.rmdir()

    def write_config(self, about: dict[str, Any]) -> None:
        """Write config.json: experiment, configuration, command and versions."""
        write_atomically(self.folder / "config.json", _json(about))
        self.__dict__.pop("_about", None)

    def change_config(self, config: dict[str, Any]) -> None:
        """Write a changed configuration, and add the command that changed it."""
        about = self.read_config()
        changes = [*about.get("changed_by", []), command()]
        self.write_config(about | {"config": config, "changed_by": changes})

    def read_config(self) -> dict[str, Any]:
        """Return config.json: experiment, configuration, command and versions; it is read once.

        Raises:
            ValueError: If the file is damaged.
        """
        return self._about

    @cached_property
    def _about(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            about: dict[str, Any] = parse_json(path.read_bytes())
            if not isinstance(about["experiment"], str) or not isinstance(about["config"], dict):
                raise TypeError("no experiment or no config")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a configuration that metarl wrote ({error})") from None
        return about

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run for writing: see :func:`~metarl.runs.lock.holding`."""
        return holding(self.folder)

    def checkpoint_path(self, iteration: int, suffix: str = ".safetensors") -> Path:
        """Return where the checkpoint after `iteration` meta-updates belongs."""
        return self.folder / "checkpoints" / f"{iteration:08d}{suffix}"

    def checkpoints(self) -> list[int]:
        """List the iterations that have a checkpoint, in order."""
        found = (self.folder / "checkpoints").glob("[0-9]*")
        return sorted(int(p.stem) for p in found if p.suffix in CHECKPOINTS and p.stem.isdigit())

    def forget_checkpoints(self, keep: int | None) -> None:
        """Remove all but the newest `keep` checkpoints and the initialization; None keeps all."""
        found = [iteration for iteration in self.checkpoints() if iteration and processes.writes()]
        for iteration in found[:-keep] if keep else ():
            for suffix in CHECKPOINTS:
                self.checkpoint_path(iteration, suffix).unlink(missing_ok=True)

    def choose_checkpoint(self, iteration: int | None) -> int:
        """Return the iteration of a checkpoint, by default of the last.

        Raises:
            ValueError: If there is no such checkpoint.
        """
        found = self.checkpoints()
        if not found or (iteration is not None and iteration not in found):
            wanted = "" if iteration is None else f" of iteration {iteration}"
            raise ValueError(f"{self.folder} has no checkpoint{wanted}; it has {found or 'none'}")
        return found[-1] if iteration is None else iteration

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            OSError: If it cannot be written.
            RuntimeError: If another run has taken the folder's place.
        """
        if not processes.writes():
            return
        if not is_held(self.folder):
            raise RuntimeError(
                f"{self.folder} was removed or replaced while this run was writing it; the run "
                "has stopped"
            )
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error.strerror}); `metarl resume {self.folder}` goes "
                "on from the last checkpoint"
            ) from None

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; a last line that a dying process left unfinished is ignored."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        entries = [read_line(line) for line in lines]
        if None in entries[:-1]:
            bad = entries.index(None)
            raise ValueError(
                f"{path}, line {bad + 1} is no line of metrics: {lines[bad][:60]!r}; restore it "
                "from a copy"
            )
        return [entry for entry in entries if entry is not None]

    def cut_metrics(self, iteration: int, *, every: int = 1) -> None:
        """Drop the lines after `iteration`, which a resumed run will write again.

        Args:
            iteration: The last to keep.
            every: Iterations from line to line.
        """
        kept = [entry for entry in self.metrics() if entry.get("iteration", 0) <= iteration]
        found = [int(entry.get("iteration", 0)) for entry in kept]
        needed = {*range(every, iteration + 1, every), *([iteration] if iteration else [])}
        if not needed <= set(found) or found != sorted(set(found)):
            raise ValueError(
                f"{self.folder / 'metrics.jsonl'} lacks iterations up to {iteration}; restore it "
                "from a copy; nothing was changed"
            )
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_atomically(self.folder / "metrics.jsonl", text.encode())

    def evaluation_path(self, name: str) -> Path:
        """Return where the evaluation called `name` belongs."""
        return self.folder / "evaluations" / f"{name}.json"

    def write_evaluation(self, name: str, values: dict[str, Any]) -> Path:
        """Write evaluations/NAME.json, with the time, by which evaluations are ordered."""
        path = self.evaluation_path(name)
        path.parent.mkdir(exist_ok=True)
        written = datetime.now(UTC).isoformat(timespec="microseconds")
        write_atomically(path, _json({"written": written, **values}))
        return path

    def evaluations(self) -> list[dict[str, Any]]:
        """Read every evaluation, the newest first; those of older versions know no time.

        Raises:
            ValueError: If a file is damaged; the message names it.
        """
        paths = sorted((self.folder / "evaluations").glob("[!.]*.json"))
        entries = [read_evaluation(path) for path in paths]
        return sorted(entries, key=lambda entry: str(entry.get("written", "")), reverse=True)


def command() -> str:
    """Return the command line of this process, as it can be typed again."""
    return shlex.join(["metarl", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    packages = ("metarl-torch", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _require_empty(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} already contains a run; continue it with `metarl resume {folder}`, "
            "or choose a different folder"
        )
    # A process that died before it wrote config.json may have left its lock and a hidden file.
    found = folder.iterdir() if folder.is_dir() else [folder] if folder.exists() else ()
    if not all(path.name == "lock" or path.name.startswith(".") for path in found):
        raise FileExistsError(f"{folder} exists and is not empty; choose a different folder")


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
