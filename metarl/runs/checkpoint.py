"""Checkpoints as safetensors files with their configuration. Loading a file never runs code."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from metarl.core import MetaParams, MetaState
from metarl.core.speed import processes
from metarl.util import damage, parse_json


FORMAT = "metarl-checkpoint-1"
GROUPS = ("model", "inner", "optimizer", "own")
DTYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip
"""Types of the tensors in checkpoints. Formats such as 8-bit floats do not support arithmetic."""
ERRORS = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError)
"""Exceptions that may be raised when a damaged file, or a file in a different format, is loaded."""


class Checkpoint(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        params: The meta-parameters.
        optimizer: State tensors of the outer optimizer, by parameter index
            and name of the state, such as ``"0/exp_avg"``. Empty if the
            method has no outer optimizer.
        own: Other tensors that the method keeps between updates; empty for most methods.
        iteration: Number of completed meta-updates.
        config: Configuration of the run, as JSON values.

    Example::

        path = Path("runs/quick/checkpoints/00000030.safetensors")
        saved = metarl.runs.checkpoint.load(path)
        saved.iteration, saved.config["seed"]  # (30, 0)
    """

    params: MetaParams
    optimizer: dict[str, Tensor]
    own: dict[str, Tensor]
    iteration: int
    config: dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: after a crash, the file has either the old or the new contents.

    In distributed training, only rank 0 writes the file; on all other ranks, this does nothing.

    Args:
        path: The file; the parent folder must exist.
        data: New contents of the file.

    Raises:
        OSError: If the file cannot be written; an existing file is left unchanged.

    Example::

        write_atomically(Path("runs/quick/notes.txt"), b"second attempt")
    """
    if not processes.writes():
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"{path} cannot be written: {error.strerror}. Check the permissions and the disk space"
        ) from None


def save(path: Path, state: MetaState, *, iteration: int, config: dict[str, Any]) -> None:
    """Save the state of a meta-learner to a checkpoint file.

    In distributed training, only rank 0 writes the file; on all other ranks, this does nothing.

    Args:
        path: The file to write; the parent folder is created.
        state: The state, on any device.
        iteration: Number of completed meta-updates.
        config: Configuration of the run, as JSON values.

    Raises:
        OSError: If the file cannot be written.
    """
    if not processes.writes():  # avoids copying the state on other ranks
        return
    entries = state.optimizer.state_dict()["state"] if state.optimizer else {}
    optimizer = {
        f"{index}/{key}": torch.as_tensor(value)
        for index, entry in entries.items()
        for key, value in entry.items()
    }
    write(path, Checkpoint(state.params, optimizer, state.own, iteration, config))


def write(path: Path, saved: Checkpoint) -> None:
    """Write a checkpoint file with the given contents, such as an edited copy of a checkpoint.

    To save the state of a meta-learner, use :func:`save`.

    Args:
        path: The file to write; the parent folder is created.
        saved: Contents of the checkpoint.

    Raises:
        OSError: If the file cannot be written.
    """
    groups = (*saved.params, saved.optimizer, saved.own)
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in zip(GROUPS, groups, strict=True)
        for name, tensor in named.items()
    }
    about = {
        "iteration": saved.iteration,
        "config": saved.config,
        "order": list(tensors),
        "sha256": _digest(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # One metadata entry, because safetensors writes several entries in a random order.
    # The order of the tensors is stored, because safetensors sorts tensors by size and name.
    write_atomically(path, to_bytes(tensors, {FORMAT: json.dumps(about)}))


def load(path: Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Load and validate a checkpoint file.

    Args:
        path: The file.
        device: Device of the loaded tensors.

    Raises:
        ValueError: If the file is missing or damaged, contains values that
            are not finite, or is not a metarl checkpoint.

    Example::

        saved = load(Path("runs/quick/checkpoints/00000030.safetensors"))
        saved.iteration  # 30
    """
    try:
        with path.open("rb"):  # safetensors reports every other error as a missing file
            pass
        with safe_open(path, "pt", device=str(device)) as file:
            about = parse_json((file.metadata() or {})[FORMAT])
            tensors = {name: file.get_tensor(name) for name in about["order"]}
            _require_whole(about, tensors, {*file.keys()})
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in GROUPS}
        for name, tensor in tensors.items():
            group, _, key = name.partition("/")
            groups[group][key] = tensor
        model, inner, optimizer, own = groups.values()
    except ERRORS as error:
        if isinstance(error, PermissionError):
            raise ValueError(f"{path} cannot be read: permission denied. Allow reading") from None
        raise ValueError(
            f"{path} is not a valid metarl checkpoint ({damage(path, error)}). Restore the file "
            "from a backup"
        ) from None
    params = MetaParams(model, inner)
    return Checkpoint(params, optimizer, own, about["iteration"], about["config"])


def _require_whole(about: dict[str, Any], tensors: dict[str, Tensor], stored: set[str]) -> None:
    """Raise a ValueError if the tensors in a checkpoint file do not match the header.

    Args:
        about: The header, with the keys ``iteration``, ``config`` and, in most files, ``sha256``.
        tensors: The tensors that the header lists.
        stored: Names of all tensors in the file.
    """
    if not isinstance(about["iteration"], int) or not isinstance(about["config"], dict):
        raise ValueError("the header must contain an integer `iteration` and an object `config`")
    if tensors.keys() != stored:
        different = sorted(tensors.keys() ^ stored)
        raise ValueError(
            f"the file must contain exactly the tensors that the header lists, got {different[0]} "
            "in only one of them"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            known = "a float of at least 16 bits, an integer or a boolean"
            raise ValueError(f"the tensor {name} must have {known} type, got {tensor.dtype}")
    # Files of older versions contain no checksum.
    if about.get("sha256", found := _digest(tensors)) != found:
        raise ValueError("the SHA-256 checksum does not match the tensors, which have changed")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"the tensor {name} must be finite, got NaN or infinite values")


def restore(state: MetaState, checkpoint: Checkpoint) -> MetaState:
    """Return the training state that a checkpoint contains.

    Args:
        state: Initial state of the same meta-learner. If the meta-learner has
            an outer optimizer, the parameters in `state` are overwritten in
            place.
        checkpoint: The checkpoint, on the device of `state`.

    Raises:
        ValueError: If names, shapes or dtypes of the tensors differ; `state` is left unchanged.
    """
    saved = (*checkpoint.params, checkpoint.own)
    for expected, tensors in zip((*state.params, state.own), saved, strict=True):
        require_same_tensors(expected, tensors)
    if state.optimizer is None:
        return MetaState(checkpoint.params, own=checkpoint.own)
    moments = _moments(checkpoint.optimizer, state.optimizer)
    for parameters, values in zip(state.params, checkpoint.params, strict=True):
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": moments})
    return state._replace(own=checkpoint.own)


def _moments(
    saved: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Return the saved optimizer tensors by parameter index and kind, such as ``exp_avg``.

    Every parameter has the same kinds of tensors. A moment must have exactly
    the shape of its parameter, because a moment that only broadcasts would
    fail at the first step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = list(dict.fromkeys(name.partition("/")[2] for name in saved))
    step = torch.zeros((), dtype=torch.float32)
    expected = {
        f"{index}/{kind}": step if kind == "step" else parameter
        for index, parameter in enumerate(parameters)
        for kind in kinds
    }
    require_same_tensors(expected, saved)
    return {
        index: {kind: saved[f"{index}/{kind}"] for kind in kinds}
        for index in range(len(parameters) if kinds else 0)
    }


def require_same_tensors(expected: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    """Raise a ValueError if two groups of tensors differ in names, shapes or dtypes.

    Args:
        expected: Tensors of the run by name.
        got: Tensors of the checkpoint by name.

    Raises:
        ValueError: If the groups differ; the message names the first different tensor.
    """
    for name in expected | got:
        needed, found = (
            f"{group[name].dtype} {tuple(group[name].shape)}" if name in group else "absent"
            for group in (expected, got)
        )
        if needed != found:
            raise ValueError(
                f"the checkpoint does not match the run: {name} must be {needed}, got {found}. "
                "If a different version of metarl wrote the checkpoint, use that version"
            )


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 checksum of the names, dtypes, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
