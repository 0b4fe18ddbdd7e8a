"""Checkpoints that are valid files with wrong contents, and damaged files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from metarl.runs import checkpoint
from tests.support.commands import metarl
from tests.support.robustness import cases, contents, copied, damaged_bytes, end_of, json_values


COMMANDS: dict[str, list[Any]] = {
    "regression": [
        *("--mode", "eager", "--iterations", 3, "--num-tasks", 2, "--hidden", 3),
        *("--validation-tasks", 2, "--log-every", 1, "--checkpoint-every", 1),
    ],
    "promp": [
        *("--env", "metarl/Bandit-v0", "--iterations", 2, "--num-tasks", 2, "--hidden", 3),
        *("--episodes-per-task", 2, "--checkpoint-every", 1),
    ],
    "sb3": [
        *("--algo", "sac", "--env", "metarl/SparsePoint-v0", "--iterations", 2, "--num-envs", 1),
        *("--episodes", 1, "--eval-every", 8, "--hidden", 2),
    ],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, words in COMMANDS.items():
        metarl("train", name, *words, "--out", folder / name)
    return {name: folder / name for name in COMMANDS}


def changed(draw: st.DrawFn, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove, rename or add a tensor, or change its shape, dtype or values."""
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    how = draw(st.sampled_from(["remove", "rename", "add", "shape", "type", "value"]))
    if how in ("remove", "rename"):
        tensors = {n: x for n, x in tensors.items() if n != name}
    if how in ("rename", "add"):
        prefix = draw(
            st.sampled_from(["model/", "inner/", "optimizer/", "optimizer/0/", "own/", ""])
        )
        return tensors | {prefix + draw(st.text(max_size=3)): tensor.clone()}
    if how == "shape":
        shapes = [tensor[None], tensor.flatten()[:-1], tensor.new_zeros(0), tensor.sum()]
        return tensors | {name: draw(st.sampled_from(shapes)).contiguous()}
    if how == "type":
        return tensors | {name: tensor.to(draw(st.sampled_from([torch.float64, torch.int32])))}
    if how == "value":
        value = draw(st.sampled_from([float("nan"), float("inf"), -float("inf")]))
        return tensors | {name: torch.full_like(tensor, value)}
    return tensors


@st.composite
def forged(draw: st.DrawFn, path: Path) -> bytes:
    """Generate a modified checkpoint with a valid checksum."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[checkpoint.FORMAT])
    tensors = {name: tensors[name] for name in about["order"]}
    if draw(st.integers(0, 2)):
        tensors = changed(draw, tensors)
    else:
        key = draw(st.sampled_from(["iteration", "config", "order"]))
        about[key] = draw(json_values | st.integers(0, 9))
    about |= {"sha256": checkpoint._digest(tensors)}
    about |= {"order": list(tensors)} if isinstance(about.get("order"), list) else {}
    header = draw(st.sampled_from([json.dumps(about)] * 9 + ["[]", "null", "[" * 100_000]))
    save_file(tensors, path, {checkpoint.FORMAT: header})
    return path.read_bytes()


@pytest.mark.nightly
@cases(0.25)
@given(data=st.data())
def test_forged_checkpoint(runs: dict[str, Path], data: st.DataObject) -> None:
    """Evaluation rejects it; resume rejects it, or warns and uses the previous checkpoint."""
    run = runs[data.draw(st.sampled_from(["regression", "promp"]))]
    copy = copied(run)
    last = sorted((copy / "checkpoints").iterdir())[-1]
    whole, bytes_of_it = last.read_bytes(), data.draw(forged(last))
    before = contents(copy)
    evaluated = end_of("evaluate", copy, "--num-tasks", 2)
    assert contents(copy) == before
    more = data.draw(st.booleans())
    resumed = end_of("resume", copy, *(["--iterations", 4] if more else []))
    if resumed.warned:  # evaluation only reads the parameters
        assert evaluated.code == 1 or "does not match the run" in resumed.warned[0]
        assert more or last.read_bytes() == whole
    elif resumed.code:
        assert contents(copy) == before
    else:  # only tensors for resuming were changed, and the run was complete
        assert last.read_bytes() == bytes_of_it


@cases(0.1)
@given(data=st.data())
def test_damaged_checkpoint_of_stable_baselines(runs: dict[str, Path], data: st.DataObject) -> None:
    copy = copied(runs["sb3"])
    files = sorted(path for path in (copy / "checkpoints").iterdir() if "00000002" in path.name)
    file = data.draw(st.sampled_from(files))
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    before = contents(copy)
    if data.draw(st.booleans()):
        end_of("evaluate", copy, "--num-tasks", 1, "--episodes-per-task", 1)
        assert contents(copy) == before
    else:
        done = end_of("resume", copy)
        assert done.code == 0 or contents(copy) == before


def forge(last: Path, name: str, tensor: Tensor) -> None:
    """Replace a tensor of a checkpoint, with a valid checksum."""
    tensors = load_file(last)
    with safe_open(last, "pt") as file:
        about = json.loads(file.metadata()[checkpoint.FORMAT])
    tensors = {n: tensors[n] for n in about["order"]} | {name: tensor}
    header = json.dumps(about | {"sha256": checkpoint._digest(tensors)})
    save_file(tensors, last, {checkpoint.FORMAT: header})


def test_non_finite_checkpoints_are_rejected_and_the_previous_one_is_resumed(
    runs: dict[str, Path],
) -> None:
    copy = copied(runs["regression"])
    last = sorted((copy / "checkpoints").iterdir())[-1]
    whole = last.read_bytes()
    forge(last, "model/head.bias", torch.full((1,), torch.nan))
    refused = end_of("evaluate", copy, "--num-tasks", 2)
    assert "model/head.bias must be finite" in refused.message
    done = end_of("resume", copy)
    assert (done.code, len(done.warned)) == (0, 1)
    assert last.read_bytes() == whole


def test_broadcast_moments_are_rejected_and_the_previous_checkpoint_is_resumed(
    runs: dict[str, Path],
) -> None:
    copy = copied(runs["promp"])
    last = sorted((copy / "checkpoints").iterdir())[-1]
    whole = last.read_bytes()
    forge(last, "optimizer/0/exp_avg", torch.zeros(()))
    done = end_of("resume", copy)
    (warning,) = done.warned
    assert "0/exp_avg must be torch.float32 (3, 1), got torch.float32 ()" in warning
    assert (done.code, last.read_bytes()) == (0, whole)
