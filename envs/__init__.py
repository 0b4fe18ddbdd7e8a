"""Environments with task distributions, built on Gymnasium, NumPy and MuJoCo.

Importing this package registers all environments in :data:`ENVIRONMENTS` with
Gymnasium. Each environment has a scalar implementation for
``gymnasium.make(id)`` and a vectorized implementation for
``gymnasium.make_vec(id, num_envs=...)``. The benchmarks in :data:`META_WORLD`
are registered, too, without a vectorized implementation.

Example::

    >>> import gymnasium
    >>> import numpy as np
    >>> import metarl.envs
    >>> env = gymnasium.make("metarl/Navigation2D-v0")
    >>> env.unwrapped.task = env.unwrapped.sample_tasks(1, np.random.default_rng(0))[0]
    >>> observation, info = env.reset(seed=0)
    >>> observation.tolist()
    [0.0, 0.0]
"""

from functools import partial
from pkgutil import resolve_name
from typing import Any, NamedTuple

import gymnasium


class Row(NamedTuple):
    """The registration of an environment with Gymnasium.

    Attributes:
        id: Gymnasium ID, such as ``metarl/AntDir-v1``.
        module: Name of the module in ``metarl.envs`` that defines the environment.
        name: Class name of the scalar environment.
        horizon: Number of time steps after which an episode is truncated.
    """

    id: str
    module: str
    name: str
    horizon: int

    def scalar(self) -> Any:
        """Import :attr:`module`, and return the scalar environment class :attr:`name`."""
        return resolve_name(f"metarl.envs.{self.module}:{self.name}")


ENVIRONMENTS = (
    Row("metarl/Navigation2D-v0", "navigation", "Navigation2D", 100),
    Row("metarl/PixelNavigation2D-v0", "pixel_navigation", "PixelNavigation2D", 100),
    Row("metarl/SparsePoint-v0", "sparse_point", "SparsePoint", 100),
    Row("metarl/Bandit-v0", "bandit", "Bandit", 10),
    Row("metarl/TabularMDP-v0", "tabular_mdp", "TabularMDP", 10),
    Row("metarl/RllabHalfCheetahDir-v0", "half_cheetah", "RllabHalfCheetahDir", 200),
    Row("metarl/RllabHalfCheetahVel-v0", "half_cheetah", "RllabHalfCheetahVel", 200),
    Row("metarl/HalfCheetahDir-v1", "half_cheetah", "HalfCheetahDir", 100),
    Row("metarl/HalfCheetahVel-v1", "half_cheetah", "HalfCheetahVel", 100),
    Row("metarl/AntDir-v1", "ant", "AntDir", 100),
    Row("metarl/AntVel-v1", "ant", "AntVel", 100),
    Row("metarl/AntGoal-v1", "ant", "AntGoal", 200),
    Row("metarl/Walker2dDir-v1", "walker2d", "Walker2dDir", 200),
    Row("metarl/Walker2dVel-v1", "walker2d", "Walker2dVel", 200),
    Row("metarl/HumanoidDir-v1", "humanoid", "HumanoidDir", 200),
    Row("metarl/SwimmerVel-v1", "swimmer", "SwimmerVel", 100),
    Row("metarl/HopperRandParams-v1", "rand_params", "HopperRandParams", 200),
    Row("metarl/Walker2dRandParams-v1", "rand_params", "Walker2dRandParams", 200),
)


CLASSES = """
assembly basketball bin-picking box-close button-press-topdown button-press-topdown-wall
button-press button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble
door-close door-lock door-open door-unlock hand-insert drawer-close drawer-open faucet-open
faucet-close hammer handle-press-side handle-press handle-pull-side handle-pull lever-pull
pick-place-wall pick-out-of-hole pick-place plate-slide plate-slide-side plate-slide-back
plate-slide-back-side peg-insert-side peg-unplug-side soccer stick-push stick-pull push
push-wall push-back reach reach-wall shelf-place sweep-into sweep window-open window-close
"""
META_WORLD = ("ML10", "ML45", *(f"ML1-{name}-v3" for name in CLASSES.split()))
"""Benchmarks of Meta-World; ``metarl/ML10`` and the other IDs require the package metaworld."""


def __getattr__(name: str) -> Any:
    """Return the constructor for the vectorized environment `name`, such as ``BatchedAntDir``.

    Raises:
        AttributeError: If `name` is not "Batched" followed by the class name of an environment in
            :data:`ENVIRONMENTS`.
    """
    for row in ENVIRONMENTS:
        if name == f"Batched{row.name}":
            return partial(resolve_name(row.scalar().vectorized), row.scalar())
    raise AttributeError(f"module 'metarl.envs' has no attribute {name!r}")


def register_all() -> None:
    """Register all environments with Gymnasium, except for IDs that are already registered."""
    for row in ENVIRONMENTS:
        if row.id not in gymnasium.registry:
            gymnasium.register(
                row.id,
                entry_point=f"metarl.envs.{row.module}:{row.name}",
                vector_entry_point=f"metarl.envs:Batched{row.name}",
                max_episode_steps=row.horizon,
            )
    for benchmark in META_WORLD:
        if (env_id := f"metarl/{benchmark}") not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="metarl.envs.meta_world:MetaWorld",
                max_episode_steps=500,
                kwargs={"benchmark": benchmark},
            )


register_all()
