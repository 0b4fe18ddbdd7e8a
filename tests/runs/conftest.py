"""Fixtures of the tests of runs."""

import shutil
from pathlib import Path

import pytest

from tests.support.commands import FEW, metarl


@pytest.fixture(scope="module")
def run(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run with a picture, so that none is drawn."""
    folder = tmp_path_factory.mktemp("runs") / "evaluated"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("evaluations", "media"))
    metarl("evaluate", folder, *FEW)
    (folder / "media").mkdir()
    (folder / "media/the paths.png").write_bytes(b"a picture")
    (folder / "tracking").mkdir()
    (folder / "tracking/wandb-id").write_text("mine")
    return folder
