"""Public names of a package that are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable
from typing import Any


def attach(
    package: str, modules: dict[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the module functions that make the public names of a package lazy.

    In the package's ``__init__``::

        __getattr__, __dir__, __all__ = attach(__name__, {"video": ("SUFFIXES", "write_video")})

    A public name must differ from the names of the package's modules: once ``package.film`` is
    imported, the attribute ``film`` of the package is that module.

    Args:
        package: Full name of the package.
        modules: Public names by the module of the package that defines them.

    Returns:
        Values of ``__getattr__``, ``__dir__`` and ``__all__``.
    """
    found_in = {name: module for module, names in modules.items() for name in names}
    public = sorted(found_in)

    def get(name: str) -> Any:
        if name not in found_in:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{found_in[name]}"), name)

    return get, lambda: public, public
