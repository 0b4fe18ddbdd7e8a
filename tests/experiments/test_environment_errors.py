"""Advice for environments that cannot be created."""

from pathlib import Path

import gymnasium
import pytest

from metarl.experiments.environment_errors import creation_errors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, which is not on the module path, as with the command `metarl`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def advice(env: str) -> str:
    with pytest.raises((ModuleNotFoundError, ValueError)) as caught, creation_errors(env):
        gymnasium.make(env)
    return str(caught.value)


def test_a_module_in_the_current_folder_requires_python_m(folder: Path) -> None:
    (folder / "arm_a.py").touch()
    assert "arm_a is in the current folder: use `python -m metarl`" in advice("arm_a:Arm-v0")


def test_a_module_that_is_nowhere_must_be_installed(folder: Path) -> None:
    assert "requires arm_b.envs: install it, or add its folder" in advice("arm_b.envs:Arm-v0")


def test_a_wrong_import_inside_of_the_module_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice was to use `python -m metarl`, which was already used."""
    (folder / "arm_c.py").write_text("import metarl.envs.navigation2d")
    monkeypatch.syspath_prepend(folder)
    message = advice("arm_c:Arm-v0")
    assert "arm_c imports metarl.envs.navigation2d: install it, or correct the import" in message
    assert "python -m" not in message


def test_a_similar_environment_is_suggested() -> None:
    assert "did you mean metarl/Navigation2D-v0?" in advice("metarl/Navigation2-v0")
