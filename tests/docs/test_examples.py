"""The examples in docstrings run and print the documented output."""

import doctest
import importlib
import inspect
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import ROOT


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "metarl" else ("metarl", *parts))


WITH_EXAMPLES = [
    module_of(path)
    for folder in ("metarl", "envs", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text() and path.name != "__init__.py"
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # examples write files
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs={"torch": torch, "np": np})
    assert found.attempted
    assert found.failed == 0


@pytest.mark.parametrize(
    "name", ["metarl", "metarl.core", "metarl.nn", "metarl.rl", "metarl.supervised"]
)
def test_example_of_a_package_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(importlib.import_module(name)) or ""
    exec(textwrap.dedent(text.partition("Example::")[2]), {})
