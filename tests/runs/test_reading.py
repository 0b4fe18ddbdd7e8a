"""Reading a run while it trains, and files that exist but cannot be read or used."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from metarl.experiments.load import load
from metarl.runs import Run, checkpoint
from tests.support.commands import FEW, metarl, refusal


LAST = "checkpoints/00000006.safetensors"


@pytest.fixture
def pruned(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose last checkpoint is deleted when a command starts to read it.

    Of ``--keep-checkpoints 1``, the next checkpoint would take its place; here, it is the previous.
    """
    read = checkpoint.load

    def deleting(path: Path, **options: Any) -> Any:
        (copied / LAST).unlink(missing_ok=True)
        return read(path, **options)

    monkeypatch.setattr(checkpoint, "load", deleting)
    return copied


def test_a_checkpoint_that_training_deletes_is_replaced_by_the_newest(
    pruned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("evaluate", pruned, *FEW)
    assert "iteration 4: return on" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [["push"], ["pull", "--out"]], ids=lambda words: words[0])
def test_a_copied_checkpoint_is_the_newest(words: list[str], pruned: Path, tmp_path: Path) -> None:
    verb, *flags = words
    metarl(verb, pruned, *flags, tmp_path / "copy")
    assert Run(tmp_path / "copy").checkpoints() == [4]


def test_a_loaded_checkpoint_is_the_newest(pruned: Path) -> None:
    load(pruned)


def test_a_chosen_checkpoint_that_training_deletes_is_missing(
    pruned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(capsys, "evaluate", pruned, *FEW, "--checkpoint", 6)
    assert "has no checkpoint of iteration 6: expected one of [0, 2, 4]" in error


def test_a_file_that_is_deleted_while_a_run_is_opened_is_ignored(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def deleting(path: Path, **options: Any) -> bool:
        found = exists(path, **options)
        if path == copied / LAST:
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "exists", deleting)
    Run.open(copied)


@pytest.mark.skipif(os.name != "posix", reason="requires the permissions of POSIX")
@pytest.mark.parametrize("name", [LAST, "checkpoints"])
def test_a_checkpoint_without_permission_is_not_called_missing(
    name: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    for folder in (".", "checkpoints"):
        Path(folder).chmod(0o755)
    Path(name).chmod(0)
    run, user = Run(Path()), os.geteuid()
    os.seteuid(user or 65534)  # root ignores permissions
    try:
        with pytest.raises((ValueError, OSError), match=r"(?i)permission denied") as caught:
            checkpoint.load(run.checkpoint_path(run.choose_checkpoint(None)))
    finally:
        os.seteuid(user)
        Path(name).chmod(0o755)
    assert name in str(caught.value)


def test_a_pointer_of_git_lfs_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    (copied / LAST).write_text(text)
    error = refusal(capsys, "evaluate", copied, *FEW)
    assert "00000006.safetensors is a Git LFS pointer; run `git lfs pull`" in error


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "complex64"])
def test_tensors_of_unused_types_are_named(
    kind: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with safe_open(copied / LAST, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    name = min(tensors)
    tensors[name] = tensors[name].to(getattr(torch, kind))
    save_file(tensors, copied / LAST, header)
    error = refusal(capsys, "evaluate", copied, *FEW)
    assert f"the tensor {name} must have a float of at least 16 bits, an integer" in error
    assert f"got torch.{kind}" in error


@pytest.mark.parametrize("entry", ["return/step_0", "iteration"])
@pytest.mark.parametrize("digits", [400, 5000])
def test_metrics_with_hundreds_of_digits_are_damaged(
    entry: str, digits: int, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    known = f'"{entry}": {json.dumps(json.loads(lines[2])[entry])}'
    lines[2] = lines[2].replace(known, f'"{entry}": 1{"0" * digits}')
    (copied / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    error = refusal(capsys, "plot", copied, "--out", copied / "a.png")
    assert "metrics.jsonl, line 3 is damaged: expected metrics" in error
