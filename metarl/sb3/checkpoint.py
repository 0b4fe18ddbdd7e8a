"""Checkpoints of Stable-Baselines3: the zip of ``model.save``, and beside it the replay buffer.

The zip is SB3's own, so that ``PPO.load(path)`` reads it; that runs code of the file. What is here
reads only tensors.
"""

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metarl.core.speed import processes
from metarl.runs.checkpoint import write_atomically
from metarl.runs.folder import Run


ZIP, REPLAY = ".zip", ".replay.npz"
ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError,
    zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip
"""What comes of files that are damaged, or are not what their names say."""
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def save(run: Run, model: Any, iteration: int) -> None:
    """Write a model down; a replay buffer, which may be large, of this checkpoint alone."""
    if not processes.writes():
        return
    path = run.checkpoint_path(iteration, ZIP)
    path.parent.mkdir(exist_ok=True)
    # The zip comes after the buffer, and older buffers go last: the newest zip always has its own.
    if getattr(model, "replay_buffer", None) is not None:
        write_atomically(run.checkpoint_path(iteration, REPLAY), _packed(model.replay_buffer))
    data = io.BytesIO()
    model.save(data)
    write_atomically(path, data.getvalue())
    for old in path.parent.glob(f"*{REPLAY}"):
        if old != run.checkpoint_path(iteration, REPLAY):
            old.unlink()


def restore(run: Run, model: Any, iteration: int, *, replay: bool = True) -> None:
    """Put the state of a checkpoint into a model that was built from the run's settings.

    Args:
        run: The run.
        model: The model.
        iteration: That of the checkpoint.
        replay: Also read the replay buffer, to train on.

    Raises:
        ValueError: If a file is missing or damaged, or belongs to another run.
    """
    from stable_baselines3.common.save_util import load_from_zip_file

    path, buffer = run.checkpoint_path(iteration, ZIP), run.checkpoint_path(iteration, REPLAY)
    with _reading(path):
        _, params, variables = load_from_zip_file(path, load_data=False, device=model.device)
        model.set_parameters(params, device=model.device)
        for name, tensor in (variables or {}).items():  # SAC's entropy coefficient
            getattr(model, name).data.copy_(tensor)
    if replay and getattr(model, "replay_buffer", None) is not None:
        with _reading(buffer):
            _unpack(buffer, model.replay_buffer)
    model.num_timesteps = sum(
        int(line.get("env/steps", 0)) for line in run.metrics() if line["iteration"] <= iteration
    )


def copy(run: Run, new: Run, iteration: int) -> None:
    """Copy the tensors of a checkpoint into another run, without the pickles beside them.

    Raises:
        ValueError: If the file is missing or damaged, or holds something else than tensors.
    """
    path, data = run.checkpoint_path(iteration, ZIP), io.BytesIO()
    with _reading(path), zipfile.ZipFile(path) as old, zipfile.ZipFile(data, "w") as archive:
        for name in sorted(n for n in old.namelist() if n.endswith(".pth")):
            tensors = old.read(name)
            torch.load(io.BytesIO(tensors), map_location="cpu", weights_only=True)
            archive.writestr(zipfile.ZipInfo(name), tensors)
    write_atomically(new.checkpoint_path(iteration, ZIP), data.getvalue())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in a line that a file cannot be read; torch warns of pickles before it refuses them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a whole checkpoint of this run ({reason})") from None


def _packed(buffer: Any) -> bytes:
    """Return what a replay buffer holds."""
    arrays = {name: getattr(buffer, name)[: buffer.size()] for name in FIELDS}
    data = io.BytesIO()
    np.savez(data, pos=buffer.pos, full=buffer.full, **arrays)
    return data.getvalue()


def _unpack(path: Path, buffer: Any) -> None:
    """Fill a replay buffer of the same size."""
    with np.load(path) as saved:  # arrays of numbers: objects, which could run code, are refused
        for name in FIELDS:
            getattr(buffer, name)[: len(saved[name])] = saved[name]
        buffer.pos, buffer.full = int(saved["pos"]), bool(saved["full"])
