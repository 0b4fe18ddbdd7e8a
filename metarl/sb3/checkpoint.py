"""Stable-Baselines3 checkpoints: the zip file written by ``model.save``, and the replay buffer.

``PPO.load(path)`` can also read the zip file, but unpickles objects, which
can run arbitrary code. This module loads only tensors and never runs code
from a file.
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
from metarl.runs.checkpoint import DTYPES
from metarl.util import damage


ZIP, REPLAY = ".zip", ".replay.npz"
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
VARIABLES = "pytorch_variables"  # entry of the zip with tensors that belong to no module
BUFFERS = 2  # replay buffers to keep, so that a run survives a damaged last checkpoint


def save(run: Run, model: Any, iteration: int) -> None:
    """Save a model and its replay buffer as a checkpoint.

    Only the two most recent replay buffers are kept. In distributed training, only rank 0 writes.

    Args:
        run: The run whose folder receives the files.
        model: An SB3 model.
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
    """Load a checkpoint into a model that was built from the run's settings.

    Args:
        run: The run to read from.
        model: The SB3 model that receives the parameters, optimizer state and replay buffer. The
            number of environment steps is computed from the metrics of the run.
        iteration: Iteration of the checkpoint.
        replay: Whether to load the replay buffer, which is only needed to continue training.

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
    """Copy the tensors in a checkpoint to a different run, without pickled objects.

    Args:
        run: The run to copy from.
        new: The run to copy to.
        iteration: Iteration of the checkpoint.

    Raises:
        ValueError: If the file is missing or damaged, or a tensor entry contains other objects.
    """
    path, data = run.checkpoint_path(iteration, ZIP), io.BytesIO()
    with _reading(path), zipfile.ZipFile(data, "w") as archive:
        for name, (contents, _) in sorted(_read_tensors(path).items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.pth"), contents)
    write_atomically(new.checkpoint_path(iteration, ZIP), data.getvalue())


def _read_tensors(path: Path) -> dict[str, tuple[bytes, Any]]:
    """Return the tensor entries in an SB3 zip file by name, as ``(bytes, loaded values)``."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        _require_stored(archive)
        for name in archive.namelist():
            if name.endswith(".pth"):
                contents = archive.read(name)
                with zipfile.ZipFile(io.BytesIO(contents)) as inner:
                    _require_stored(inner)
                values = torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True)
                _require_plain(name, pytree.tree_leaves(values))
                found[name.removesuffix(".pth")] = contents, values
    return found


def _require_stored(archive: zipfile.ZipFile) -> None:
    """Raise a ValueError if an entry of a zip archive is compressed.

    A small compressed entry could expand beyond the available memory. SB3 and
    NumPy never compress entries.
    """
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"entry {info.filename} is compressed; expected uncompressed entries")


def _require_plain(name: str, tensors: list[Any]) -> None:
    """Raise a ValueError for tensors that are expanded, not finite or of an unsupported type.

    The elements of an expanded tensor share memory, so a small entry could
    declare a tensor that expands beyond the available memory.
    """
    for x in (x for x in tensors if isinstance(x, torch.Tensor)):
        if x.nbytes > x.untyped_storage().nbytes():
            raise ValueError(f"{name} contains a tensor with more elements than the file stores")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name} contains values of type {x.dtype}, which is not supported")
        if x.is_floating_point() and not x.isfinite().all():
            raise ValueError(f"{name} contains values that are not finite")


def _require_matching_moments(part: Any) -> None:
    """Raise a ValueError if a moment in an optimizer does not have the shape of the parameter.

    Args:
        part: An optimizer, or a module, which has no moments.
    """
    for parameter, moments in getattr(part, "state", {}).items():
        for name, moment in moments.items():
            if torch.is_tensor(moment) and moment.shape not in ((), parameter.shape):
                raise ValueError(
                    f"optimizer state {name} must have shape {tuple(parameter.shape)}, got "
                    f"{tuple(moment.shape)}"
                )


def _like(tensor: Any, expected: torch.Tensor, name: str) -> torch.Tensor:
    """Return `tensor` with the dtype and device of `expected`.

    Args:
        tensor: The tensor.
        expected: Tensor with the expected shape, dtype and device.
        name: Name of the tensor in the error.

    Raises:
        ValueError: If the shapes differ.
    """
    if tensor.shape != expected.shape:
        raise ValueError(f"{name} must have shape {tuple(expected.shape)}, got {tensor.shape}")
    result: torch.Tensor = tensor.to(expected)
    return result


def _restore_buffer(path: Path, buffer: Any) -> None:
    """Load a replay buffer from a file, after validating the shapes and values of all arrays."""
    with zipfile.ZipFile(path) as archive:
        _require_stored(archive)
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in FIELDS}
        position, full = int(saved["pos"]), bool(saved["full"])
    length = buffer.buffer_size if full else position
    for name, values in arrays.items():
        expected = (length, *getattr(buffer, name).shape[1:])
        if values.shape != expected or not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite and have shape {expected}, got {values.shape}")
    if not 0 <= position <= buffer.buffer_size:
        raise ValueError(f"`pos` must be from 0 to {buffer.buffer_size}, got {position}")
    for name, values in arrays.items():
        getattr(buffer, name)[:length] = values
    buffer.pos, buffer.full = position, full


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert errors within a context to a one-line ValueError that contains `path`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except MemoryError:
        raise
    except Exception as error:  # damaged files can raise any error
        reason = damage(path, error)
        if isinstance(error, pickle.UnpicklingError):  # torch suggests an unsafe way to load
            reason = "an entry contains objects other than tensors"
        raise ValueError(
            f"{path} is not a valid checkpoint of this run ({reason}). Restore the file from a "
            "backup"
        ) from error
