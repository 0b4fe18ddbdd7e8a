"""Optional packages: loaded where they are needed, with one text for when they are missing."""

import importlib
from typing import Any


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import and return a module of an optional package.

    Args:
        module: Its full name.
        extra: The extra of metarl-torch that installs it.
        purpose: What needs it, in the plural: ``"plots"``.

    Raises:
        ImportError: If it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise ImportError(
            f"{purpose} need {package}: pip install 'metarl-torch[{extra}]'"
        ) from None


def pyplot(purpose: str = "plots") -> Any:
    """Return ``matplotlib.pyplot``, drawing into files.

    Raises:
        ImportError: If matplotlib is missing; the message has the command.
    """
    require("matplotlib", extra="plot", purpose=purpose).use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def plain_text(text: str) -> str:
    """Return a text as matplotlib takes it: a $ in the name of a folder begins no formula."""
    return text.replace("$", r"\$")
