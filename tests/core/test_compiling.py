"""Traced and compiled programs: the cost of tracing, and broken entries in torch's cache."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core.speed import program
from metarl.core.speed.compiling import _remove_broken_library
from metarl.core.speed.staging import trace


def test_tracing_allocates_no_results() -> None:
    def function(x: Tensor) -> Tensor:
        return x.expand(10**6, 10**6).exp().sum()  # 4 TB

    traced = trace(function, [torch.ones(1)])
    assert [n.name for n in traced.graph.nodes][1:-1] == ["expand", "exp", "sum_1"]


def test_tensors_that_a_traced_function_captures_are_constants() -> None:
    factor = torch.full((2,), 3.0)
    traced = program(lambda x: x * factor, "traced")
    for x in (torch.ones(2), torch.full((2,), 5.0)):
        assert_close(traced(x), x * 3)


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
