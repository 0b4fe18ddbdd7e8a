"""Run commands in this process and read their files."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metarl.commands import cli
from tests.support import ROOT


TINY = [
    *("--num-tasks", "2", "--episodes-per-task", "3"),
    *("--hidden", "8", "8", "--checkpoint-every", "2"),
]
FEW = ["--num-tasks", "2", "--episodes-per-task", "2"]
TRAIN = ["train", "maml-trpo", *TINY]


def script(path: Path) -> ModuleType:
    """Import a script of the repository that is not in a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metarl(*argv: Any) -> None:
    """Run a command line in this process and check that it exits with status 0."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in argv])
    assert stopped.value.code == 0


def refusal(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """Run a command line that must fail, and return its one-line error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in argv])
    assert stopped.value.code in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("metarl: error: ")
    return line


def history(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without the wall times, which differ between runs."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time/")}
        for line in lines
    ]


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("[0-9]*")}


def built_wheel(folder: Path) -> Path:
    """Build the wheel of metarl in a folder, or skip the test if the package 'build' is missing."""
    build = [sys.executable, "-m", "build", "--wheel"]
    if subprocess.run([*build, "--version"], capture_output=True).returncode:
        pytest.skip("needs the package 'build': pip install 'metarl-torch[dev]'")
    subprocess.run([*build, "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
