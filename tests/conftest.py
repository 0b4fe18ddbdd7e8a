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


# Examples per property; tests in test_robust_*.py use a fraction. No deadline: machines are busy.
SHARED = {"deadline": None, "database": None, "print_blob": True}
settings.register_profile("quick", max_examples=50, derandomize=True, **SHARED)
settings.register_profile("nightly", max_examples=300, **SHARED)
settings.register_profile("thorough", max_examples=3000, **SHARED)
settings.load_profile("quick")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background, by a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers already use all cores
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """Cache decoded images between runs of the tests, outside of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARL_CACHE", str(pytestconfig.cache.mkdir("metarl")))
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of six iterations."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metarl(*TRAIN, "--iterations", 6, "--out", folder)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole` for a test to modify, without evaluations and media."""
    ignored = shutil.ignore_patterns("evaluations", "media")
    return Path(shutil.copytree(whole, tmp_path / "run", ignore=ignored))


@pytest.fixture
def free_threads() -> Iterator[None]:
    """Restore the number of threads after a test that changes it."""
    allowed = torch.get_num_threads()
    yield
    torch.set_num_threads(allowed)


@pytest.fixture
def egl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the test if EGL is unavailable."""
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
