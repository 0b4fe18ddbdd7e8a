"""Imports of optional packages, with an error that contains the install command."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module from an optional package and return the module.

    Args:
        module: Full name of the module.
        extra: Extra of metarl-torch that installs the package.
        purpose: Feature that requires the package, as a plural noun such as ``"plots"``.

    Raises:
        ImportError: If the package is not installed; the message contains the install command.

    Example::

        image = require("PIL.Image", extra="vision", purpose="image files")
    """
    try:
        with _valid_backend():
            return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise ImportError(
            f"{purpose} require {package}; run pip install 'metarl-torch[{extra}]'"
        ) from None


@contextmanager
def _valid_backend() -> Iterator[None]:
    """Let matplotlib be imported despite an invalid backend in ``MPLBACKEND``.

    The backend is not used, because all figures are written to files.
    """
    given = os.environ.pop("MPLBACKEND", "")
    before = "matplotlib" in sys.modules
    try:
        yield
    finally:
        if given:
            os.environ["MPLBACKEND"] = given
        if given and not before and "matplotlib" in sys.modules:
            with suppress(ValueError):
                sys.modules["matplotlib"].rcParams["backend"] = given


def pyplot(purpose: str = "plots") -> Any:
    """Return ``matplotlib.pyplot`` with the Agg backend, which draws to files without a display.

    Args:
        purpose: Feature that requires matplotlib, as a plural noun.

    Raises:
        ImportError: If matplotlib is not installed; the message contains the install command.

    Example::

        figure, axes = pyplot().subplots()
        figure.savefig("empty.png")
    """
    require("matplotlib", extra="plot", purpose=purpose).use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def plain_text(text: str) -> str:
    """Return `text` with escaped dollar signs, which matplotlib does not parse as formulas."""
    return text.replace("$", r"\$")
