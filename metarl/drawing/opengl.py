"""OpenGL contexts for MuJoCo, with or without a display."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def explain_missing_opengl() -> Iterator[None]:
    """Convert the AttributeError of ``import mujoco`` if OpenGL is missing to a RuntimeError.

    Raises:
        RuntimeError: If ``MUJOCO_GL`` selects an OpenGL library that is not
            installed; the message contains the packages to install.

    Example::

        with explain_missing_opengl():
            import mujoco
    """
    try:
        yield
    except AttributeError as error:
        if "mujoco" in sys.modules or "mujoco._structs" not in sys.modules:
            raise  # the error is not from importing MuJoCo
        raise _cannot_draw(os.environ["MUJOCO_GL"], error) from None


def contexts(model: Any, *, width: int, height: int) -> tuple[Any, Any]:
    """Create an OpenGL context and a MuJoCo rendering context for a model, and activate them.

    The environment variable ``MUJOCO_GL`` selects the backend. If it is not
    set, the backend is EGL on Linux, which does not require a display, and
    GLFW on other systems. The selected backend is stored in ``MUJOCO_GL`` for
    Gymnasium.

    Args:
        model: The ``mujoco.MjModel``.
        width: Maximum width of an image in pixels.
        height: Maximum height of an image in pixels.

    Returns:
        A ``GLContext`` and an ``MjrContext``. Free the ``MjrContext`` first.

    Raises:
        RuntimeError: If OpenGL is not available; the message contains the packages to install.

    Example::

        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        window, context = contexts(model, width=480, height=360)
        context.free()
        window.free()
    """
    import mujoco

    default = "egl" if sys.platform == "linux" else "glfw"
    backend = os.environ.get("MUJOCO_GL", "").lower().strip() or default
    try:
        window = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        window.make_current()
        opened = window, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
    except Exception as error:  # from AttributeError to mujoco.FatalError
        raise _cannot_draw(backend, error) from None
    os.environ["MUJOCO_GL"] = backend
    return opened


def _cannot_draw(backend: str, error: Exception) -> RuntimeError:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AttributeError):  # raised by PyOpenGL
        text = "its library is missing"
    return RuntimeError(
        f"rendering with OpenGL failed ({backend}: {text.partition('. ')[0]}). Without a display, "
        "MuJoCo requires EGL. On Debian and Ubuntu, run apt-get install libegl1 libgl1-mesa-dri "
        "libgles2 and set MUJOCO_GL=egl"
    )
