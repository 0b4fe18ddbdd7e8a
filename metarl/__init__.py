"""Gradient-based meta-learning on PyTorch, Gymnasium and MuJoCo.

Importing the package registers its environments; it imports neither torch nor mujoco.
"""

import metarl.envs as envs  # registers the environments


__version__ = "0.1.0"

__all__ = ["__version__", "envs"]
