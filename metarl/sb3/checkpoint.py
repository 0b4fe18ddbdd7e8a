"""Checkpoints of Stable-Baselines3: the zip file of ``model.save``, and the replay buffer.

``PPO.load(path)`` can read the zip file, but runs code from it. This module reads only tensors and
runs no code.
"""

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.save_util import load_from_zip_file

from metarl.core.speed import processes
from metarl.runs import Run, write_atomically


ZIP, REPLAY = ".zip", ".replay.npz"
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def save(run: Run, model: Any, iteration: int) -> None:
    """Save a model and its replay buffer; buffers of earlier checkpoints are deleted.

    Args:
        run: The run.
        model: The model.
        iteration: Iteration of the checkpoint.

    Raises:
        OSError: If a file cannot be written.
    """
    if not processes.writes():
        return
    path, replay = run.checkpoint_path(iteration, ZIP), run.checkpoint_path(iteration, REPLAY)
    path.parent.mkdir(exist_ok=True)
    # The zip is written after the buffer, and older buffers are deleted last, so that the newest
    # zip always has a buffer.
    if (buffer := getattr(model, "replay_buffer", None)) is not None:
        arrays = {name: getattr(buffer, name)[: buffer.size()] for name in FIELDS}
        np.savez(packed := io.BytesIO(), pos=buffer.pos, full=buffer.full, **arrays)
        write_atomically(replay, packed.getvalue())
    model.save(data := io.BytesIO())
    write_atomically(path, data.getvalue())
    for old in {*path.parent.glob(f"*{REPLAY}")} - {replay}:
        old.unlink()


def restore(run: Run, model: Any, iteration: int, *, replay: bool = True) -> None:
    """Load the state of a checkpoint into a model built from the settings of the run.

    Args:
        run: The run.
        model: The model.
        iteration: Iteration of the checkpoint.
        replay: Whether to load the replay buffer, to continue training.

    Raises:
        ValueError: If a file is missing or damaged, or belongs to a different run.
    """
    with _reading(path := run.checkpoint_path(iteration, ZIP)):
        _, params, variables = load_from_zip_file(path, load_data=False, device=model.device)
        model.set_parameters(params, device=model.device)
        for name, tensor in (variables or {}).items():  # SAC's entropy coefficient
            getattr(model, name).data.copy_(tensor)
    buffer = getattr(model, "replay_buffer", None)
    if replay and buffer is not None:
        # Only numeric arrays are read; pickled objects could run code.
        with _reading(path := run.checkpoint_path(iteration, REPLAY)), np.load(path) as saved:
            for name in FIELDS:
                getattr(buffer, name)[: len(saved[name])] = saved[name]
            buffer.pos, buffer.full = int(saved["pos"]), bool(saved["full"])
    model.num_timesteps = sum(
        int(line.get("env/steps", 0)) for line in run.metrics() if line["iteration"] <= iteration
    )


def copy(run: Run, new: Run, iteration: int) -> None:
    """Copy the tensors of a checkpoint into a different run, without its pickles.

    Args:
        run: The run.
        new: The run to write to.
        iteration: Iteration of the checkpoint.

    Raises:
        ValueError: If the file is missing, damaged, or contains anything but tensors.
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
    """Context that raises a one-line error for a file that cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # damaged files can raise any error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a valid checkpoint of this run ({reason})") from error
