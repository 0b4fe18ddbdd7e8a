"""What is shipped, who may import whom, and that importing costs nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import metarl


ROOT = Path(__file__).parents[1]
FOLDERS = {"metarl": ROOT / "metarl", "envs": ROOT / "envs", "experiments": ROOT / "experiments"}
SOURCES = sorted(path for folder in FOLDERS.values() for path in folder.rglob("*.py"))


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def third_party(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"metarl"}


def within(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / "metarl/core").glob("*.py")), ids=lambda p: p.name)
def test_core_imports_torch_numpy_and_jaxtyping_only(path: Path) -> None:
    names = imports(path)
    assert third_party(names) <= {"torch", "numpy", "jaxtyping"}
    assert not any(within(names, f"metarl.{part}") for part in ("rl", "envs", "experiments"))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.py")), ids=lambda p: p.name)
def test_environments_import_neither_torch_nor_the_rest_of_metarl(path: Path) -> None:
    names = imports(path)
    assert third_party(names) <= {"numpy", "gymnasium", "mujoco"}
    assert all(name.startswith("metarl.envs") for name in names if name.startswith("metarl"))


@pytest.mark.parametrize("path", sorted((ROOT / "metarl").rglob("*.py")), ids=lambda p: p.name)
def test_only_the_command_line_imports_experiments(path: Path) -> None:
    if path.name != "cli.py":
        assert not within(imports(path), "metarl.experiments")


@pytest.mark.parametrize("path", sorted((ROOT / "metarl/rl").glob("*.py")), ids=lambda p: p.name)
def test_algorithms_import_no_input_or_output(path: Path) -> None:
    files = ("checkpoint", "tracking", "trackers", "journal", "loading", "output", "media")
    drawing = ("plot", "render", "film", "panels", "scene", "opengl", "video")
    parts = (*files, *drawing, "optional", "console", "cli", "supervised")
    assert not any(within(imports(path), f"metarl.{part}") for part in parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_optional_packages_are_imported_where_they_are_needed(path: Path) -> None:
    drawing = {"matplotlib", "imageio", "imageio_ffmpeg"}
    optional = {"wandb", "tensorboard", "transformers", "huggingface_hub", *drawing}
    assert not third_party(imports(path, top_level=True)) & optional


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_file_grows_beyond_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_every_package_folder_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        ".".join(["metarl", *path.parent.relative_to(folder).parts])
        if name == "metarl"
        else ".".join(["metarl", name, *path.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for path in folder.rglob("__init__.py")
    }
    assert set(settings["tool"]["setuptools"]["packages"]) == found
    assert settings["project"]["version"] == metarl.__version__


def test_every_extra_of_users_is_tested_at_its_oldest() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(settings["project"]["optional-dependencies"]) - {"all", "docs", "dev"}
    (listed,) = re.findall(r"^extras=\((.*)\)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert set(listed.split()) == extras
    words = [sys.executable, str(ROOT / ".ci/oldest.py"), *extras]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert {"huggingface-hub==1.3", "transformers==5", "wandb==0.19"} <= set(printed.split())
    assert not any(line.startswith("torch==") for line in printed.split())


def test_importing_metarl_loads_neither_torch_nor_mujoco() -> None:
    code = "import sys, metarl; print([m for m in ('torch', 'mujoco') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
