"""Folders that `push` and `pull` create, after a process was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from metarl.runs import new_folder
from tests.support.commands import metarl, refusal


KILLED = """\
import os, pathlib
from metarl.runs import new_folder

context = new_folder(pathlib.Path("pulled"))
folder = context.__enter__()
folder.mkdir()
(folder / "leftover").touch()
os._exit(9)
"""


def test_the_next_pull_deletes_what_a_killed_pull_left(copied: Path, tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path).returncode == 9
    assert list(tmp_path.glob(".metarl-*"))
    metarl("pull", copied, "--out", tmp_path / "pulled")
    assert list(tmp_path.glob(".metarl-*")) == []
    assert not list(tmp_path.rglob("leftover"))
    assert (tmp_path / "pulled/config.json").exists()


def test_the_folder_of_an_active_pull_is_not_deleted(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_folder(tmp_path / "pulled") as folder:
        folder.mkdir()
        error = refusal(capsys, "pull", copied, "--out", tmp_path / "pulled")
        assert ".metarl-pulled is locked by another process. Wait" in error
        metarl("pull", copied, "--out", tmp_path / "different")
        assert folder.is_dir()
    assert (tmp_path / "pulled").is_dir()
    assert list(tmp_path.glob(".metarl-*")) == []
