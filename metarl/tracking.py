"""The run folder: everything that a run leaves on disk, and the only code that writes it.

::

    config.json      experiment, configuration, command, versions
    metrics.jsonl    one line per iteration
    checkpoints/     00000000.safetensors (the initialization), 00000010.safetensors, ...
    evaluations/     one JSON file per evaluation
    media/           pictures and videos
    tracking/        TensorBoard or wandb files, if asked for
    lock             held by the process that trains
"""

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import filelock

from metarl.checkpoint import write_atomically


@dataclass(frozen=True)
class Run:
    """A run folder that exists."""

    folder: Path

    @classmethod
    @contextmanager
    def create(cls, folder: Path, experiment: str, config: dict[str, Any]) -> Iterator["Run"]:
        """Make a new run folder and hold it for writing.

        Raises:
            FileExistsError: If `folder` holds a run, or anything else.
            RuntimeError: If another process is making a run of it.
        """
        _refuse_taken(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        with run.lock():
            _refuse_taken(folder)  # by a process that came and went since the first look
            run.write_config(experiment, config)
            yield run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run folder.

        Raises:
            FileNotFoundError: If there is no run in `folder`.
        """
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no run (no config.json); start one with "
                f"`metarl train maml-trpo --preset navigation-quick --out {folder}`"
            )
        return cls(folder)

    def write_config(self, experiment: str, config: dict[str, Any]) -> None:
        """Write config.json, with the command and the versions that the run was started with."""
        about = {
            "experiment": experiment,
            "config": config,
            "command": " ".join(["metarl", *sys.argv[1:]]),
            "versions": versions(),
        }
        write_atomically(self.folder / "config.json", _json(about))

    def change_config(self, config: dict[str, Any]) -> None:
        """Write a changed configuration, and add the command that changed it."""
        about = self.read_config() | {"config": config}
        changes = [*about.get("changed_by", []), " ".join(["metarl", *sys.argv[1:]])]
        write_atomically(self.folder / "config.json", _json(about | {"changed_by": changes}))

    def read_config(self) -> dict[str, Any]:
        """Return config.json.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.folder / "config.json"
        try:
            about: dict[str, Any] = json.loads(path.read_text())
            about["experiment"], about["config"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a configuration that metarl wrote ({error})") from None
        return about

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; the system frees it however the process ends.

        Raises:
            RuntimeError: If another process holds it.
        """
        lock = filelock.FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RuntimeError(
                f"{self.folder} is being written by another process; wait for it, or stop it"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def checkpoint_path(self, iteration: int) -> Path:
        """Return where the checkpoint after `iteration` meta-updates belongs."""
        return self.folder / "checkpoints" / f"{iteration:08d}.safetensors"

    def checkpoints(self) -> list[int]:
        """List the iterations that have a checkpoint, in order."""
        found = (self.folder / "checkpoints").glob("[0-9]*.safetensors")
        return sorted(int(path.stem) for path in found if path.stem.isdigit())

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; a last line that a dying process left unfinished is ignored."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                if number < len(lines):
                    raise ValueError(f"{path}, line {number} is not JSON: {line[:60]!r}") from None
        return entries

    def cut_metrics(self, iteration: int) -> None:
        """Drop the lines after `iteration`, which a resumed run will write again."""
        kept = [entry for entry in self.metrics() if entry.get("iteration", 0) <= iteration]
        if [entry.get("iteration") for entry in kept] != list(range(1, iteration + 1)):
            raise ValueError(
                f"{self.folder / 'metrics.jsonl'} lacks iterations up to {iteration}; restore it "
                "from a copy; nothing was changed"
            )
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_atomically(self.folder / "metrics.jsonl", text.encode())

    def write_evaluation(self, name: str, values: dict[str, Any]) -> Path:
        """Write evaluations/NAME.json."""
        path = self.folder / "evaluations" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, _json(values))
        return path

    def evaluations(self) -> list[dict[str, Any]]:
        """Read every evaluation, the newest first."""
        found = (self.folder / "evaluations").glob("[!.]*.json")
        paths = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        return [json.loads(path.read_text()) for path in paths]


@runtime_checkable
class Tracker(Protocol):
    """Sends metrics elsewhere, beside metrics.jsonl."""

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one iteration."""


class _TensorBoard:
    def __init__(self, run: Run, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                "--track tensorboard needs tensorboard: pip install 'metarl-torch[track]'"
            ) from None
        self._writer = SummaryWriter(str(run.folder / "tracking"), purge_step=start + 1)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()


class _Wandb:
    def __init__(self, run: Run, start: int) -> None:
        del start
        try:
            import wandb
        except ImportError:
            raise ImportError(
                "--track wandb needs wandb: pip install 'metarl-torch[wandb]'"
            ) from None
        folder = run.folder / "tracking"
        folder.mkdir(exist_ok=True)
        about = run.read_config()
        name = run.folder.resolve().name
        self._run = wandb.init(
            project="metarl", name=name, id=name, resume="allow", dir=folder, config=about["config"]
        )

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=iteration)


def require_tracker(name: str) -> None:
    """Raise ImportError, with the command to type, if the package of a tracker is missing."""
    package = {"tensorboard": "tensorboard", "wandb": "wandb"}.get(name)
    if package and importlib.util.find_spec(package) is None:
        extra = {"tensorboard": "track", "wandb": "wandb"}[name]
        raise ImportError(f"--track {name} needs {package}: pip install 'metarl-torch[{extra}]'")


def tracker(name: str, run: Run, *, start: int) -> Tracker | None:
    """Make the tracker called ``none``, ``tensorboard`` or ``wandb``; `start` is where it begins.

    Raises:
        ImportError: If its package is not installed; the message has the command.
    """
    if name == "none":
        return None
    return _TensorBoard(run, start) if name == "tensorboard" else _Wandb(run, start)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in ("metarl-torch", "torch", "numpy", "gymnasium", "mujoco"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _refuse_taken(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} already holds a run; continue it with `metarl resume {folder}`, "
            "or choose another --out"
        )
    if folder.exists() and (not folder.is_dir() or not _is_empty(folder)):
        raise FileExistsError(f"{folder} exists and is not empty; choose another --out")


def _is_empty(folder: Path) -> bool:
    """Ignore what a process may leave that died before it wrote config.json."""
    return all(path.name == "lock" or path.name.startswith(".") for path in folder.iterdir())


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
