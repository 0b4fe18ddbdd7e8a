"""Base class for the three-dimensional robots: ants and humanoids."""

from typing import ClassVar

import numpy as np

from metarl.envs.base import Array
from metarl.envs.locomotion import LocomotionEnv, States


class SpatialRobot(LocomotionEnv):
    """Base class for three-dimensional robots; episodes end if the torso is too low or too high.

    Class attributes:
        heights: Lowest and highest torso height in m at which an episode
            continues.
    """

    constants = {"frame_skip": 5}  # noqa: RUF012
    hidden_positions = 2
    heights: ClassVar[tuple[float, float]]

    def healthy(self, states: States) -> Array:
        """Return a boolean mask of shape (batch,), True for torso heights within `heights`."""
        low, high = self.heights
        return np.asarray((low <= states.qpos[:, 2]) & (states.qpos[:, 2] <= high))
