"""Gradient-based meta-learning on PyTorch, Gymnasium and MuJoCo.

- :func:`metarl.train` trains an experiment and writes metrics and checkpoints to a run folder.
- :func:`metarl.load` loads a trained model from a run folder, and :func:`metarl.load_adapted` an
  adapted model from a file.
- :func:`metarl.register_method` adds a meta-RL method.
- :mod:`metarl.rl`, :mod:`metarl.supervised` and :mod:`metarl.core` contain the building blocks for
  custom methods and training loops.

Importing metarl registers all environments with Gymnasium, but does not
import torch or mujoco. The public names in each subpackage are listed in the
subpackage's ``__init__.pyi`` and are imported on first use.

Example::

    import metarl

    metarl.train("maml-trpo", "runs/quick", preset="navigation-quick", iterations=2)
    policy = metarl.load("runs/quick")
    adapted = policy.adapt({"goal": [0.3, -0.2]}, steps=1)
"""

import lazy_loader

import metarl.envs  # noqa: F401 - registers the environments


__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
