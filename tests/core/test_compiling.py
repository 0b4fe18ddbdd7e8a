"""Compiled programs: a broken entry in torch's cache is compiled again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metarl.core.speed.compiling import _remove_broken_library


def test_the_library_named_in_an_error_is_deleted(tmp_path: Path) -> None:
    library = tmp_path / "cq6.main.so"
    library.touch()
    message = f"backend='inductor' raised:\nImportError: {library}: file too short\n\nSet ..."
    assert _remove_broken_library(message)
    assert not library.exists()
    assert not _remove_broken_library(message)
    assert not _remove_broken_library("CppCompileError: C++ compile error")


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("g++") is None, reason="requires a C++ compiler")
def test_an_empty_library_in_the_cache_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    code = """
import torch
from metarl.core.speed.compiling import Program
print(float(Program(lambda x: (x @ x).sin() + 1, compiled=True)(torch.ones(4, 4)).sum()))
"""

    def run() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    expected = run()
    libraries = list(tmp_path.rglob("*.main.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(b"")
    assert run() == expected
    assert all(library.stat().st_size for library in libraries)
