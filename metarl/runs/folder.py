"""The run folder, which contains all files of a run.

::

    config.json      experiment, configuration, command line and package versions
    metrics.jsonl    metrics, one JSON object per line
    checkpoints/     00000000.safetensors (the initialization), 00000010.safetensors, ...;
                     Stable-Baselines3 runs have .zip files instead
    evaluations/     one JSON file per evaluation
    media/           images and videos; names start with the iteration
    tracking/        TensorBoard or Weights & Biases files, if tracking is enabled
    lock             lock file of the process that writes the run
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from metarl.core.speed import processes
from metarl.runs.checkpoint import write_atomically
from metarl.runs.config import command, versions
from metarl.runs.finding import require_empty, require_run
from metarl.runs.lock import is_held, locked
from metarl.runs.records import FORMAT, read_about, read_evaluation, read_line
from metarl.runs.stopping import Stopped


CHECKPOINTS = (".safetensors", ".zip")
"""Suffixes of checkpoint files."""


@dataclass(frozen=True)
class Run:
    """An existing run folder.

    Attributes:
        folder: Path of the folder.

    Example::

        run = Run.open(Path("runs/quick"))
        run.metrics()[-1], run.checkpoints()
    """

    folder: Path

    @classmethod
    @contextmanager
    def create(cls, folder: Path, experiment: str, config: Any, **about: Any) -> Iterator["Run"]:
        """Create a run folder, and yield the run; the folder is locked while the context is active.

        If an error occurs before the first iteration is logged, the files of the run are deleted,
        so that the same command can be run again. After an OSError or a stop signal, the files are
        kept, because the run can be resumed. In distributed training, only rank 0 writes files.

        Args:
            folder: The folder; it must be empty or not exist.
            experiment: Name of the experiment, such as ``maml-trpo``.
            config: Configuration of the run, as JSON values.
            about: Additional entries for config.json.

        Raises:
            FileExistsError: If the folder contains a run or other files.
            RuntimeError: If another process has locked the folder.
        """
        run = cls(folder)
        if not processes.writes():
            yield run
            return
        require_empty(folder)
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with run.lock():
            require_empty(folder)  # another process may have created a run since
            known = {"experiment": experiment, "config": config, **about}
            run.write_config(known | {"command": command(), "versions": versions()})
            try:
                yield run
            except Exception as error:
                if not isinstance(error, OSError | Stopped):  # these runs can be resumed
                    run.discard_untrained(new=new)
                raise

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run folder.

        Raises:
            FileNotFoundError: If the folder contains no run.
            ValueError: If an entry is neither a file nor a folder; reading a pipe would never end.
        """
        for path in folder.rglob("*"):
            with suppress(OSError):  # an active run may delete the file
                if not (S_ISREG(mode := path.stat().st_mode) or S_ISDIR(mode)):
                    raise ValueError(f"{path} is neither a file nor a folder. Remove it")
        require_run(folder)
        return cls(folder)

    def discard_untrained(self, *, new: bool) -> None:
        """Delete the files of the run if no training iteration was logged.

        Nothing is deleted if another run was started in the same folder.

        Args:
            new: Whether to remove the folder too; should be True if this run created the folder.
        """
        if not is_held(self.folder) or any(entry["iteration"] for entry in self.metrics()):
            return
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new:
            self.folder.rmdir()

    def write_config(self, about: dict[str, Any]) -> None:
        """Write config.json; `about` contains the keys that :meth:`read_config` returns."""
        write_atomically(self.folder / "config.json", _json({"format": FORMAT} | about))

    def change_config(self, config: dict[str, Any]) -> None:
        """Replace the configuration in config.json and record the current command line."""
        about = self.read_config()
        changes = [*about.get("changed_by", []), command()]
        self.write_config(about | {"config": config, "changed_by": changes})

    def read_config(self) -> dict[str, Any]:
        """Return the contents of config.json.

        Returns:
            A dictionary with the keys ``format``, ``experiment``, ``config``, ``command``,
            ``versions`` and, depending on the run, ``spaces``, ``changed_by``, ``pulled_from`` and
            ``trust_env``.

        Raises:
            ValueError: If the file is damaged, or has the format of a different version of metarl.
        """
        return read_about(self.folder / "config.json")

    def lock(self) -> AbstractContextManager[None]:
        """Return a context that locks the run for writing; see :func:`~metarl.runs.lock.locked`."""
        return locked(self.folder)

    def checkpoint_path(self, iteration: int, suffix: str = ".safetensors") -> Path:
        """Return the path of the checkpoint file after `iteration` meta-updates, with `suffix`."""
        return self.folder / "checkpoints" / f"{iteration:08d}{suffix}"

    def checkpoints(self) -> list[int]:
        """Return the iterations that have a checkpoint, in ascending order."""
        folder = self.folder / "checkpoints"
        found = folder.iterdir() if folder.is_dir() else ()  # glob() ignores missing permissions
        return sorted(int(p.stem) for p in found if p.suffix in CHECKPOINTS and p.stem.isdecimal())

    def prune_checkpoints(self, keep: int | None) -> None:
        """Delete all checkpoints but the initialization and the newest `keep`; None keeps all."""
        found = [iteration for iteration in self.checkpoints() if iteration and processes.writes()]
        for iteration in found[:-keep] if keep else ():
            for suffix in CHECKPOINTS:
                self.checkpoint_path(iteration, suffix).unlink(missing_ok=True)

    def choose_checkpoint(self, iteration: int | None) -> int:
        """Return the iteration of an existing checkpoint.

        Args:
            iteration: Iteration of the checkpoint, or None for the newest checkpoint.

        Raises:
            ValueError: If the run has no checkpoint of this iteration.
        """
        found = self.checkpoints()
        if not found or (iteration is not None and iteration not in found):
            name = "" if iteration is None else f" of iteration {iteration}"
            known = f"expected one of {found}" if found else f"run `metarl resume {self.folder}`"
            raise ValueError(f"{self.folder} has no checkpoint{name}: {known}")
        return found[-1] if iteration is None else iteration

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and flush the file to disk.

        In distributed training, only rank 0 writes the line; on all other ranks, this does nothing.

        Args:
            iteration: Number of completed iterations.
            metrics: Metrics by name.

        Raises:
            OSError: If the file cannot be written.
            RuntimeError: If the locked run folder was removed or replaced.
        """
        if not processes.writes():
            return
        if not is_held(self.folder):
            raise RuntimeError(
                f"{self.folder} was removed or replaced during the run. Start again in a new folder"
            )
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error.strerror}). `metarl resume {self.folder}` "
                "continues from the last checkpoint"
            ) from None

    def metrics(self) -> list[dict[str, Any]]:
        """Return the entries of metrics.jsonl, one dictionary per line.

        An incomplete last line, which a killed process may leave, is ignored.

        Raises:
            ValueError: If any other line is damaged; the message contains the line number.
        """
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        entries = [read_line(line) for line in lines]
        if None in entries[:-1]:
            bad = entries.index(None)
            raise ValueError(
                f"{path}, line {bad + 1} is damaged: expected metrics as a JSON object, got "
                f"{lines[bad][:60]!r}. Restore the file from a backup"
            )
        return [entry for entry in entries if entry is not None]

    def cut_metrics(self, iteration: int, *, every: int) -> None:
        """Remove the lines of later iterations from metrics.jsonl, before a run is resumed.

        Args:
            iteration: Last iteration to keep.
            every: Number of iterations between lines, the setting ``log_every``.

        Raises:
            ValueError: If lines up to `iteration` are missing; the file is left unchanged.
        """
        kept = [entry for entry in self.metrics() if entry["iteration"] <= iteration]
        found = [entry["iteration"] for entry in kept]
        needed = {*range(every, iteration + 1, every), *([iteration] if iteration else [])}
        if not needed <= set(found) or found != sorted(set(found)):
            raise ValueError(
                f"{self.folder / 'metrics.jsonl'} does not have all lines up to iteration "
                f"{iteration}. Restore the file from a backup; nothing was changed"
            )
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_atomically(self.folder / "metrics.jsonl", text.encode())

    def evaluation_path(self, name: str) -> Path:
        """Return the path of the file evaluations/NAME.json, where NAME is `name`."""
        return self.folder / "evaluations" / f"{name}.json"

    def write_evaluation(self, name: str, values: dict[str, Any]) -> Path:
        """Write `values` and the current time to evaluations/NAME.json; return the path."""
        path = self.evaluation_path(name)
        path.parent.mkdir(exist_ok=True)
        written = datetime.now(UTC).isoformat(timespec="microseconds")
        write_atomically(path, _json({"written": written, **values}))
        return path

    def evaluations(self) -> list[dict[str, Any]]:
        """Return all evaluations, newest first.

        Evaluations that older versions of metarl wrote have no time and come last.

        Raises:
            ValueError: If a file is damaged; the message contains its path.
        """
        paths = sorted((self.folder / "evaluations").glob("[!.]*.json"))
        entries = [read_evaluation(path) for path in paths]
        return sorted(entries, key=lambda entry: str(entry.get("written", "")), reverse=True)


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
