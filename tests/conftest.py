"""Fixtures that several test files share."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from metarl.drawing import opengl
from tests.support.commands import TRAIN, metarl


# Of a property; those of test_robust_*.py take shares of it. A machine that is busy is no failure.
ALIKE = {"deadline": None, "database": None, "print_blob": True}
settings.register_profile("quick", max_examples=50, derandomize=True, **ALIKE)
settings.register_profile("thorough", max_examples=3000, **ALIKE)
settings.load_profile("quick")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background, by a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers have all cores busy; tests of threads ask
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep decoded images from one run of the tests to the next, but not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARL_CACHE", str(pytestconfig.cache.mkdir("metarl")))
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metarl(*TRAIN, "--iterations", 6, "--out", folder)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole` that a test may change, without evaluations and pictures."""
    ignored = shutil.ignore_patterns("evaluations", "media")
    return Path(shutil.copytree(whole, tmp_path / "run", ignore=ignored))


@pytest.fixture
def free_threads() -> Iterator[None]:
    """Let a test set the number of threads; put it back afterwards."""
    allowed = torch.get_num_threads()
    yield
    torch.set_num_threads(allowed)


@pytest.fixture
def egl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip where there is no EGL."""
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    try:
        window, context = opengl.contexts(
            mujoco.MjModel.from_xml_string("<mujoco/>"), width=8, height=8
        )
    except RuntimeError as error:
        pytest.skip(str(error))
    context.free()
    window.free()
