"""OpenGL for MuJoCo, with or without a screen."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
        raise _cannot_draw(os.environ["MUJOCO_GL"], error) from None


def contexts(model: Any, *, width: int, height: int) -> tuple[Any, Any]:
    """Open a context of OpenGL and one of MuJoCo for a model, and make them current.

    ``MUJOCO_GL`` chooses the backend. If it is not set, that is EGL on Linux, which needs no
    screen, and GLFW elsewhere; the choice is left in ``MUJOCO_GL``, for Gymnasium.

    Args:
        model: An ``mujoco.MjModel``.
        width: Largest width of a picture, in pixels.
        height: Largest height of a picture, in pixels.

    Returns:
        A ``GLContext`` and an ``MjrContext``; free the second one first.

    Raises:
        RuntimeError: If this machine cannot draw; the message has what to install.
    """
    import mujoco

    default = "egl" if sys.platform == "linux" else "glfw"
    backend = os.environ.get("MUJOCO_GL", "").lower().strip() or default
    try:
        window = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        window.make_current()
        made = window, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
    except Exception as error:  # from AttributeError to mujoco.FatalError
        raise _cannot_draw(backend, error) from None
    os.environ["MUJOCO_GL"] = backend
    return made


def _cannot_draw(backend: str, error: Exception) -> RuntimeError:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AttributeError):  # raised by PyOpenGL
        text = "its library is missing"
    return RuntimeError(
        f"this machine cannot draw with OpenGL ({backend}: {text.partition('. ')[0]}). Without a "
        "screen, MuJoCo needs EGL; on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri "
        "libgles2, and set MUJOCO_GL=egl"
    )
