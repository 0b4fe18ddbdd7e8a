"""Checkpoints: safetensors files that say what they are. Loading one never runs code."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from metarl.core.speed import processes
from metarl.core.types import MetaParams, MetaState
from metarl.util.parsing import parse_json


FORMAT = "metarl-checkpoint-1"


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        params: The meta-parameters.
        optimizer: The outer optimizer's tensors, ``"0/exp_avg"`` and so on; ``{}`` without one.
        own: What else the method carries on; ``{}`` for most.
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

    Of several processes that share a run only the first writes.
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
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(
            f"{path} cannot be written ({error.strerror}); what was there before is whole"
        ) from None


def save(path: Path, state: MetaState, *, iteration: int, config: dict[str, Any]) -> None:
    """Write the state of a meta-learner."""
    if not processes.writes():  # nor does the others' state have to be packed
        return
    optimizer = _optimizer_tensors(state.optimizer)
    write(path, Checkpoint(state.params, optimizer, state.own, iteration, config))


def write(path: Path, saved: Checkpoint) -> None:
    """Write a checkpoint, such as one that was read elsewhere."""
    groups = {"model": saved.params.model, "inner": saved.params.inner}
    groups |= {"optimizer": saved.optimizer, "own": saved.own}
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in groups.items()
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

    Raises:
        ValueError: If the file is missing, truncated, or not a checkpoint of this package.
    """
    groups: dict[str, dict[str, Tensor]] = {
        name: {} for name in ("model", "inner", "optimizer", "own")
    }
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            header = file.metadata() or {}
            if FORMAT not in header:
                raise ValueError(
                    f"{path} is a safetensors file, but not a checkpoint of metarl: its header has "
                    f"no {FORMAT!r}; use one that `metarl train` wrote"
                )
            about = parse_json(header[FORMAT])
            iteration, config = about["iteration"], about["config"]
            if not isinstance(iteration, int) or not isinstance(config, dict):
                raise TypeError("no iteration or no settings")
            if set(about["order"]) != set(file.keys()):
                raise KeyError("it has other tensors than it says")
            tensors = {name: file.get_tensor(name) for name in about["order"]}
        # Those of older versions have none.
        if about.get("sha256", found := _digest(tensors)) != found:
            raise ValueError(f"{path} is damaged: its checksum is wrong; it was left as it is")
        if bad := [n for n, x in tensors.items() if x.is_floating_point() and not finite(x)]:
            raise ValueError(
                f"{path} holds numbers that are not finite, in {bad[0]}; it was left as it is"
            )
        for name, tensor in tensors.items():
            group, _, key = name.partition("/")
            groups[group][key] = tensor
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except (
        SafetensorError, KeyError, TypeError, AttributeError, OSError, json.JSONDecodeError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}); it was left as it is"
        ) from None
    params = MetaParams(groups["model"], groups["inner"])
    return Checkpoint(params, groups["optimizer"], groups["own"], iteration, config)


def restore(state: MetaState, checkpoint: Checkpoint) -> MetaState:
    """Return a freshly initialized state with the checkpoint's values.

    Raises:
        ValueError: If the checkpoint's parameters are not those of the state.
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
    """Sort what an optimizer remembers by its parameters: of each the same, or of none anything."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = {str(index): parameter for index, parameter in enumerate(parameters)}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition("/")
        # A moment is like its parameter: one that merely broadcasts would fail in the first step.
        if index not in known or tensor.shape != (() if key == "step" else known[index].shape):
            raise ValueError(
                f"the checkpoint does not fit the run: {name} of its optimizer, of shape "
                f"{tuple(tensor.shape)}, belongs to no parameter"
            )
        moments.setdefault(int(index), {})[key] = tensor
    forms = {tuple(sorted(moments.get(index, {}))) for index in range(len(parameters))}
    if len(forms) > 1:
        raise ValueError("the checkpoint does not fit the run: its optimizer forgot something")
    return moments


def require_same_form(expected: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    """Make sure that two groups of tensors have the same names, shapes and types.

    Raises:
        ValueError: If they have not; the message names the first that differs.
    """
    forms = [{n: f"{x.dtype} {tuple(x.shape)}" for n, x in g.items()} for g in (expected, got)]
    needed, found = forms
    for name in [*needed, *found]:
        if needed.get(name) != found.get(name):
            raise ValueError(
                f"the checkpoint does not fit the run: {name} must be {needed.get(name, 'absent')},"
                f" and is {found.get(name, 'absent')}; was it written by another version?"
            )


def finite(tensor: Tensor) -> bool:
    """Say whether all numbers of a tensor are finite."""
    return bool(tensor.isfinite().all())


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return a checksum of names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _optimizer_tensors(optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    if optimizer is None:
        return {}
    return {
        f"{index}/{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
