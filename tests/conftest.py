"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from metarl.drawing import opengl
from tests.support.commands import TRAIN, metarl


# Of a property; those of test_robust_*.py take shares of it. A machine that is busy is no failure.
ALIKE = {"deadline": None, "database": None, "print_blob": True}
settings.register_profile("quick", max_examples=100, derandomize=True, **ALIKE)
settings.register_profile("thorough", max_examples=3000, **ALIKE)
settings.load_profile("quick")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background, by a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers have all cores busy; tests of threads ask
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metarl(*TRAIN, "--iterations", 6, "--out", folder)
    return folder


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
