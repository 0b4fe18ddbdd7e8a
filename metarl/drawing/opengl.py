"""OpenGL without a screen: what MuJoCo draws with, or one line on what is missing."""

import ctypes
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def headless() -> Iterator[None]:
    """Import MuJoCo inside, where the import may fail for want of OpenGL.

    MuJoCo reads ``MUJOCO_GL`` when it is imported: without a screen that has to be EGL by then, but
    only if there is an EGL library.

    Raises:
        RuntimeError: If ``MUJOCO_GL`` asks for a library that is not there.
    """
    if "MUJOCO_GL" not in os.environ and _backends() == ["egl"] and _loads("libEGL.so.1"):
        os.environ["MUJOCO_GL"] = "egl"
    with explained():
        yield


@contextmanager
def explained() -> Iterator[None]:
    """Explain an import of MuJoCo that fails inside for want of OpenGL.

    Raises:
        RuntimeError: If ``MUJOCO_GL`` asks for a library that is not there.
    """
    try:
        yield
    except AttributeError as error:
        if "mujoco" in sys.modules or "mujoco._structs" not in sys.modules:
            raise  # it was not the import of MuJoCo that failed
        raise RuntimeError(_explain([f"{os.environ.get('MUJOCO_GL')}: {_cause(error)}"])) from None


def contexts(model: Any, *, width: int, height: int) -> tuple[Any, Any]:
    """Open a context of OpenGL and one of MuJoCo for a model, and make them current.

    ``MUJOCO_GL`` chooses the backend. If it is not set, that is EGL where there is no screen, and
    GLFW or else EGL where there is one; the choice is left in ``MUJOCO_GL``, for Gymnasium.

    Raises:
        RuntimeError: If this machine cannot draw; the message has what to install.
    """
    import mujoco

    causes = []
    for name in _backends():
        try:
            window = _window(name, width, height)
            made = window, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        except Exception as error:  # from AttributeError to mujoco.FatalError
            causes.append(f"{name}: {_cause(error)}")
        else:
            os.environ["MUJOCO_GL"] = name
            return made
    raise RuntimeError(_explain(causes))


def _window(name: str, width: int, height: int) -> Any:
    """Make a context of OpenGL current. MuJoCo's of GLFW warns where others raise."""
    with warnings.catch_warnings(action="ignore"):
        window = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
        window.make_current()
        # Asked here, since what MuJoCo does without a context cannot be done twice in a process.
        if name == "glfw" and not importlib.import_module("glfw").get_current_context():
            raise RuntimeError("it can open no window")
    return window


def _backends() -> list[str]:
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen in ("egl", "osmesa", "glfw"):
        return [chosen]
    if sys.platform != "linux":
        return ["glfw"]
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["glfw", "egl"] if screen else ["egl"]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _cause(error: Exception) -> str:
    if isinstance(error, AttributeError):  # PyOpenGL's way of saying so
        return "its library is missing"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].removesuffix(".")


def _explain(causes: list[str]) -> str:
    return (
        f"this machine cannot draw with OpenGL ({'; '.join(causes)}). Without a screen, MuJoCo "
        "needs EGL; on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri libgles2, and "
        "set MUJOCO_GL=egl"
    )
