"""Checkpoints: safetensors files that describe themselves. Loading one never runs code."""

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
from metarl.util import parse_json


FORMAT = "metarl-checkpoint-1"
GROUPS = ("model", "inner", "optimizer", "own")
ERRORS = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError)
"""What reading a file raises that is damaged or no checkpoint."""


class Checkpoint(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        params: The meta-parameters.
        optimizer: The outer optimizer's tensors, ``"0/exp_avg"`` and so on; ``{}`` without one.
        own: Other tensors that the method carries from one update to the next; ``{}`` for most.
        iteration: Number of meta-updates made.
        config: The configuration of the run.
    """

    params: MetaParams
    optimizer: dict[str, Tensor]
    own: dict[str, Tensor]
    iteration: int
    config: dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the process dies, either the old or the new one is whole.

    Of several processes that share a run, only the first writes.

    Args:
        path: The file; its folder exists.
        data: Its new contents.

    Raises:
        OSError: If the file cannot be written; the old one is unchanged.
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
        raise OSError(f"{path} cannot be written: {error.strerror}") from None


def save(path: Path, state: MetaState, *, iteration: int, config: dict[str, Any]) -> None:
    """Write the state of a meta-learner.

    Args:
        path: The file to write; its folder is created.
        state: The state, on any device.
        iteration: Number of meta-updates made.
        config: The configuration of the run, as JSON values.

    Raises:
        OSError: If the file cannot be written.
    """
    if not processes.writes():  # the other processes need not copy their state either
        return
    entries = state.optimizer.state_dict()["state"] if state.optimizer else {}
    optimizer = {
        f"{index}/{key}": torch.as_tensor(value)
        for index, entry in entries.items()
        for key, value in entry.items()
    }
    write(path, Checkpoint(state.params, optimizer, state.own, iteration, config))


def write(path: Path, saved: Checkpoint) -> None:
    """Write a checkpoint, for example one that was read from another file.

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
    # One entry: safetensors writes several in an order that changes from process to process.
    # And "order", because it sorts tensors by size and name, and parameters have their own order.
    write_atomically(path, to_bytes(tensors, {FORMAT: json.dumps(about)}))


def load(path: Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint onto `device`.

    Args:
        path: The file.
        device: Where to put its tensors.

    Raises:
        ValueError: If the file is missing or damaged, has numbers that are not finite, or is not a
            checkpoint of this package.
    """
    try:
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
        raise ValueError(
            f"{path} is not a whole checkpoint of metarl ({error}); it was left unchanged"
        ) from None
    params = MetaParams(model, inner)
    return Checkpoint(params, optimizer, own, about["iteration"], about["config"])


def _require_whole(about: dict[str, Any], tensors: dict[str, Tensor], stored: set[str]) -> None:
    """Raise a ValueError if the tensors of a file are not those that its header describes."""
    if not isinstance(about["iteration"], int) or not isinstance(about["config"], dict):
        raise ValueError("it has no iteration or no configuration")
    if tensors.keys() != stored:
        raise ValueError("it has other tensors than its header lists")
    # Checkpoints of older versions have no checksum.
    if about.get("sha256", found := _digest(tensors)) != found:
        raise ValueError("its checksum is wrong")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def restore(state: MetaState, checkpoint: Checkpoint) -> MetaState:
    """Return a freshly initialized state with the values of a checkpoint.

    Args:
        state: A state of the same meta-learner; the parameters that its optimizer updates are
            overwritten.
        checkpoint: The values, on the device of `state`.

    Raises:
        ValueError: If the checkpoint does not have the tensors of the state. Nothing is changed.
    """
    saved = (*checkpoint.params, checkpoint.own)
    for mine, theirs in zip((*state.params, state.own), saved, strict=True):
        require_same_form(mine, theirs)
    if state.optimizer is None:
        return MetaState(checkpoint.params, own=checkpoint.own)
    moments = _moments(checkpoint.optimizer, state.optimizer)
    for mine, theirs in zip(state.params, checkpoint.params, strict=True):
        for name, parameter in mine.items():
            parameter.copy_(theirs[name])
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": moments})
    return state._replace(own=checkpoint.own)


def _moments(
    saved: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Sort the tensors of an optimizer by parameter; every parameter has the same kinds, or none.

    A moment has the shape of its parameter: one that only broadcasts would fail at the first step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = list(dict.fromkeys(name.partition("/")[2] for name in saved))
    step = torch.zeros((), dtype=torch.float32)
    expected = {
        f"{index}/{kind}": step if kind == "step" else parameter
        for index, parameter in enumerate(parameters)
        for kind in kinds
    }
    require_same_form(expected, saved)
    return {
        index: {kind: saved[f"{index}/{kind}"] for kind in kinds}
        for index in range(len(parameters) if kinds else 0)
    }


def require_same_form(expected: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    """Require that two groups of tensors have the same names, shapes and types.

    Raises:
        ValueError: If they differ; the message names the first tensor that does.
    """
    for name in expected | got:
        needed, found = (
            f"{group[name].dtype} {tuple(group[name].shape)}" if name in group else "absent"
            for group in (expected, got)
        )
        if needed != found:
            raise ValueError(
                f"the checkpoint does not match the run: {name} must be {needed}, got {found}; it "
                "may have been written by another version"
            )


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return a checksum of names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
