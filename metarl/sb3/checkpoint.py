"""Checkpoints of Stable-Baselines3: the zip file of ``model.save``, and the replay buffer.

``PPO.load(path)`` can read the zip file, but runs code from it. This module reads only tensors and
runs no code.
"""

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from metarl.core.speed import processes
from metarl.runs import Run, write_atomically


ZIP, REPLAY = ".zip", ".replay.npz"
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
VARIABLES = "pytorch_variables"  # entry of the zip with tensors that belong to no module
BUFFERS = 2  # replay buffers to keep, so that a run survives a damaged last checkpoint


def save(run: Run, model: Any, iteration: int) -> None:
    """Save a model and its replay buffer; only the two most recent buffers are kept.

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
    for old in sorted(path.parent.glob(f"*{REPLAY}"))[:-BUFFERS]:
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
        params = {name: values for name, (_, values) in _read_tensors(path).items()}
        variables = params.pop(VARIABLES, None) or {}  # SAC's entropy coefficient
        model.set_parameters(params, device=model.device)
        for name in params:
            _require_matching_moments(attrgetter(name)(model))
        for name, tensor in variables.items():
            getattr(model, name).data = _like(tensor, getattr(model, name).data, name)
    buffer = getattr(model, "replay_buffer", None)
    if replay and buffer is not None:
        # Only numeric arrays are read; pickled objects could run code.
        with _reading(path := run.checkpoint_path(iteration, REPLAY)):
            _restore_buffer(path, buffer)
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
    with _reading(path), zipfile.ZipFile(data, "w") as archive:
        for name, (contents, _) in sorted(_read_tensors(path).items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.pth"), contents)
    write_atomically(new.checkpoint_path(iteration, ZIP), data.getvalue())


def _read_tensors(path: Path) -> dict[str, tuple[bytes, Any]]:
    """Return the entries with tensors in a zip of SB3, by name, as bytes and loaded."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        _require_stored(archive)
        for name in archive.namelist():
            if name.endswith(".pth"):
                contents = archive.read(name)
                with zipfile.ZipFile(io.BytesIO(contents)) as inner:
                    _require_stored(inner)
                values = torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True)
                _require_finite(name, pytree.tree_leaves(values))
                found[name.removesuffix(".pth")] = contents, values
    return found


def _require_stored(archive: zipfile.ZipFile) -> None:
    """Raise a ValueError if an entry is compressed, because it could be too large for the memory.

    SB3 and NumPy do not compress the entries.
    """
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"entry {info.filename} is compressed")


def _require_finite(name: str, tensors: list[Any]) -> None:
    for x in tensors:
        if isinstance(x, torch.Tensor) and x.is_floating_point() and not x.isfinite().all():
            raise ValueError(f"{name} contains values that are not finite")


def _require_matching_moments(part: Any) -> None:
    """Raise a ValueError if a moment of an optimizer does not have the shape of its parameter."""
    for parameter, moments in getattr(part, "state", {}).items():
        for name, moment in moments.items():
            if torch.is_tensor(moment) and moment.shape not in ((), parameter.shape):
                raise ValueError(
                    f"{name} of the optimizer must have shape {tuple(parameter.shape)}, got "
                    f"{tuple(moment.shape)}"
                )


def _like(tensor: Any, expected: torch.Tensor, name: str) -> torch.Tensor:
    """Return a tensor on the device of `expected`, or raise a ValueError if shapes differ."""
    if tensor.shape != expected.shape:
        raise ValueError(f"{name} must have shape {tuple(expected.shape)}, got {tensor.shape}")
    result: torch.Tensor = tensor.to(expected)
    return result


def _restore_buffer(path: Path, buffer: Any) -> None:
    """Load a replay buffer; every array must have the length and the shape of the buffer's."""
    with zipfile.ZipFile(path) as archive:
        _require_stored(archive)
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in FIELDS}
        position, full = int(saved["pos"]), bool(saved["full"])
    length = buffer.buffer_size if full else position
    for name, values in arrays.items():
        expected = (length, *getattr(buffer, name).shape[1:])
        if values.shape != expected or not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite and of shape {expected}, got {values.shape}")
    if not 0 <= position <= buffer.buffer_size:
        raise ValueError(f"pos must be from 0 to {buffer.buffer_size}, got {position}")
    for name, values in arrays.items():
        getattr(buffer, name)[:length] = values
    buffer.pos, buffer.full = position, full


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Context that raises a one-line error for a file that cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # damaged files can raise any error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch suggests to load the file unsafely
            reason = "an entry contains objects other than tensors"
        raise ValueError(f"{path} is not a valid checkpoint of this run ({reason})") from error
