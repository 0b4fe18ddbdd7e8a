"""The contents of the package, the import laws, and fast imports."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import metarl
from tests.support import ROOT


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


CORE = {"core", "util"}
LEARNING = CORE | {"nn"}
LAWS: dict[str, set[str]] = {
    "util": set(),
    "core": {"util"},
    "nn": CORE,
    "rl": LEARNING | {"envs"},
    "supervised": LEARNING,
    "data": LEARNING | {"supervised"},
    "text": LEARNING | {"supervised"},
    "runs": CORE,
    "sb3": CORE | {"rl", "runs", "envs"},
    "drawing": CORE | {"runs", "rl", "supervised"},
    "models": LEARNING | {"rl", "supervised", "data", "text", "runs", "sb3"},
    "envs": set(),
    "experiment": CORE | {"runs"},
    "training": CORE | {"runs", "experiment"},
}
"""What the modules of each package may import of metarl, beside their own package."""
LAWS["experiments"] = {*LAWS, "experiments"}
LAWS["commands"] = {*LAWS, "commands"}
ALLOWED_IN = {
    "util": {"numpy", "rich", "torch", "lazy_loader"},
    "envs": {"numpy", "gymnasium", "mujoco", "metaworld"},
}
ALLOWED_IN["core"] = {"torch", "numpy", "jaxtyping", "lazy_loader"}
"""Third-party packages, where a package may not import whatever it likes."""


def module_of(path: Path) -> str:
    """Return the dotted module name of a file."""
    for name, folder in FOLDERS.items():
        if path.is_relative_to(folder):
            first = ["metarl"] if name == "metarl" else ["metarl", name]
            parts = [*first, *path.relative_to(folder).with_suffix("").parts]
            return ".".join(parts).removesuffix(".__init__")
    raise AssertionError(path)


MODULES = {module_of(path): path for path in SOURCES}


def public_names(package: str) -> dict[str, str]:
    """Return the public names of a package with the modules that define them."""
    stub = MODULES[package].with_suffix(".pyi")
    nodes = ast.parse(stub.read_text()).body if stub.exists() else []
    found = [(node.module, node.names) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {
        f"{package}.{alias.name}": f"{package}.{module}"
        for module, names in found
        for alias in names
        if module
    }


PACKAGES = [module_of(path) for path in SOURCES if path.name == "__init__.py"]
DEFINED_IN = {name: m for package in PACKAGES for name, m in public_names(package).items()}


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def own_imports(path: Path) -> set[str]:
    """Return the modules of metarl that a file imports anywhere."""
    found = {DEFINED_IN.get(name, name) for name in imports(path)}
    return {name for name in found if name in MODULES and name != "metarl"}


@pytest.mark.parametrize("module", [m for m in MODULES if package_of(m) in LAWS])
def test_a_module_only_imports_packages_below_its_own(module: str) -> None:
    package = package_of(module)
    allowed = LAWS[package] | {package}
    assert {m for m in own_imports(MODULES[module]) if package_of(m) not in allowed} == set()


@pytest.mark.parametrize("module", [m for m in MODULES if package_of(m) in ALLOWED_IN])
def test_a_package_only_imports_its_third_party_packages(module: str) -> None:
    assert third_party(imports(MODULES[module])) <= ALLOWED_IN[package_of(module)]


def test_modules_have_no_import_cycles() -> None:
    lazy = {name.rpartition(".")[0] for name in DEFINED_IN}
    left = {m: own_imports(path) - {m} - lazy for m, path in MODULES.items() if m not in PACKAGES}
    while free := {m for m, needed in left.items() if not needed & set(left)}:
        left = {m: needed for m, needed in left.items() if m not in free}
    assert left == {}


def test_the_root_has_few_modules_and_no_package_has_many() -> None:
    counts: dict[Path, int] = {}
    for path in SOURCES:
        counts[path.parent] = counts.get(path.parent, 0) + 1
    assert counts[FOLDERS["metarl"]] <= 4
    assert {str(folder): n for folder, n in counts.items() if n > 21} == {}  # 20, and __init__


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_optional_packages_are_imported_lazily(path: Path) -> None:
    drawing = {"matplotlib", "imageio", "imageio_ffmpeg"}
    optional = {"wandb", "tensorboard", "transformers", "huggingface_hub", *drawing}
    assert not third_party(imports(path, top_level=True)) & optional


LIBRARY = [p for m, p in MODULES.items() if package_of(m) not in ("commands", "experiments")]


def errors_of(path: Path) -> Iterator[str]:
    """Return the source of all errors and warnings of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        warns = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("warn", "raise_if")
        if isinstance(node, ast.Raise) or warns:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.name)
def test_errors_of_the_library_name_no_flag(path: Path) -> None:
    named = [text for text in errors_of(path) if re.search(r"(?<![\w-])--[a-z]", text)]
    assert [text for text in named if "`metarl " not in text] == []


def test_flags_in_errors_are_detected(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f(x):\n    raise ValueError(f'--num-tasks must be {x}')\n")
    assert [text for text in errors_of(file) if re.search(r"(?<![\w-])--[a-z]", text)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_file_has_more_than_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_only_the_console_prints(path: Path) -> None:
    """It replaces control characters, which the files of a downloaded run may contain."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    prints = [call for call in calls if ast.unparse(call.func) in ("print", "sys.stdout.write")]
    assert prints == [] or path.name == "console.py"


def test_every_package_folder_is_in_the_wheel() -> None:
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


def test_every_user_extra_is_tested_with_its_oldest_versions() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(settings["project"]["optional-dependencies"]) - {"all", "docs", "dev"}
    extras -= {"metaworld"}  # pins MuJoCo, and has its own environment in .ci/metaworld
    (listed,) = re.findall(r"^extras=\((.*)\)$", (ROOT / ".ci/nightly").read_text(), re.M)
    assert set(listed.split()) == extras
    words = [sys.executable, str(ROOT / ".ci/oldest.py"), *extras]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert {"huggingface-hub==1.3", "transformers==5", "wandb==0.19"} <= set(printed.split())
    assert not any(line.startswith("torch==") for line in printed.split())


def test_importing_metarl_loads_neither_torch_nor_mujoco() -> None:
    code = "import sys, metarl; print([m for m in ('torch', 'mujoco') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_unique_across_packages() -> None:
    meanings: dict[str, set[int]] = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in getattr(package, "__all__", ()):
            meanings.setdefault(name, set()).add(id(getattr(package, name)))
    assert [name for name, objects in meanings.items() if len(objects) > 1] == []


LAZY = [name for name in PACKAGES if MODULES[name].with_suffix(".pyi").exists()]


def test_importing_a_package_of_public_names_loads_no_large_library() -> None:
    large = ("torch", "mujoco", "matplotlib")
    code = f"import sys, {', '.join(LAZY)}; print([m for m in {large} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert {"metarl.core", "metarl.drawing", "metarl.supervised", "metarl.util"} <= set(LAZY)


@pytest.mark.parametrize("package", LAZY)
def test_public_names_exist_and_others_are_errors(package: str) -> None:
    module = importlib.import_module(package)
    for name in MODULES:  # a module with the same name would hide the public name
        if name.startswith(f"{package}.") and not name.endswith("__main__"):
            importlib.import_module(name)
    named = [name.rpartition(".")[2] for name in public_names(package)]
    assert named
    assert set(named) <= set(module.__all__) <= set(dir(module))
    assert not any(isinstance(getattr(module, name), ModuleType) for name in named)
    with pytest.raises(AttributeError, match="absent"):
        module.absent  # noqa: B018
