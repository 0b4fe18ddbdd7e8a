"""Gradient-based meta-learning on PyTorch, Gymnasium and MuJoCo.

Importing the package registers its environments; it imports neither torch nor mujoco. The public
names of a package are those of its ``__init__.pyi``; they are imported when they are first used.
"""

import lazy_loader

import metarl.envs  # noqa: F401 - registers the environments


__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
