"""Task-distribution environments: Gymnasium, numpy and MuJoCo only.

Importing this package registers every environment of :data:`ENVIRONMENTS` with Gymnasium, with a
scalar and a batched face: ``gymnasium.make(id)`` and ``gymnasium.make_vec(id, num_envs=...)``.
"""

from typing import NamedTuple

import gymnasium


class Row(NamedTuple):
    """One environment: where its two faces are, and its horizon in time steps."""

    id: str
    entry_point: str
    vector_entry_point: str
    horizon: int


ENVIRONMENTS = (
    Row(
        "metarl/Navigation2D-v0",
        "metarl.envs.navigation:Navigation2D",
        "metarl.envs.navigation:BatchedNavigation2D",
        100,
    ),
)


def register_all() -> None:
    """Register every environment that Gymnasium does not know yet."""
    for row in ENVIRONMENTS:
        if row.id not in gymnasium.registry:
            gymnasium.register(
                row.id,
                entry_point=row.entry_point,
                vector_entry_point=row.vector_entry_point,
                max_episode_steps=row.horizon,
            )


register_all()
