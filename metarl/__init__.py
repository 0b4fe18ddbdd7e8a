"""Gradient-based meta-learning on PyTorch, Gymnasium and MuJoCo.

Importing the package registers its environments; it imports neither torch nor mujoco. ``load``,
``train`` and ``register_method`` are imported when they are first used.
"""

import importlib
from typing import Any

import metarl.envs as envs  # registers the environments


__version__ = "0.1.0"

__all__ = ["__version__", "envs", "load", "register_method", "train"]

_LAZY = {
    "load": ("metarl.experiments.load", "load"),
    "register_method": ("metarl.rl.methods", "register_method"),
    "train": ("metarl.experiments", "train"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
