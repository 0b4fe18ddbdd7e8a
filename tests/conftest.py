"""Fixtures that several test files share."""

from pathlib import Path

import pytest
from commands import TRAIN, metarl


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metarl(*TRAIN, "--iterations", 6, "--out", folder)
    return folder
