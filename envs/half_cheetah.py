"""Half-cheetahs that run forwards or backwards, or at a velocity; the paper's and Gymnasium's."""

from functools import partial

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

from metarl.envs.base import Array
from metarl.envs.locomotion import BatchedLocomotion, LocomotionEnv, States
from metarl.envs.planar import center_of_mass
from metarl.envs.tasks import Direction, Velocity


CONTROL_COST = 0.05  # of every version; Gymnasium's own is 0.1


class _HalfCheetah(LocomotionEnv, HalfCheetahEnv):  # type: ignore[misc]
    def velocity(self, before: States, after: States) -> Array:
        """Return the velocity that is rewarded (rows,)."""
        raise NotImplementedError

    def rewards(self, before: States, after: States, actions: Array, tasks: Array) -> Array:
        progress = self.progress(self.velocity(before, after), tasks)
        return progress - CONTROL_COST * np.square(actions).sum(axis=1)


class _FinnHalfCheetah(_HalfCheetah):
    """The one of Finn et al. 2017: one substep of 0.01 s, whole-body velocity, 20 observations."""

    constants = {"frame_skip": 1}  # noqa: RUF012

    def velocity(self, before: States, after: States) -> Array:
        return center_of_mass(self.model, after.qpos, after.qvel)[1][:, 0]

    def features(self, states: States) -> Array:
        center = center_of_mass(self.model, states.qpos, states.qvel)[0]
        return np.concatenate([states.qpos[:, 1:], states.qvel, center], axis=1)

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        moved = 0.01 * rng.standard_normal(self.model.nq)
        return moved, 0.1 * rng.standard_normal(self.model.nv)


class _GymHalfCheetah(_HalfCheetah):
    """The Gymnasium-era one: five substeps of 0.01 s, root velocity, 17 observations."""

    constants = {"frame_skip": 5}  # noqa: RUF012

    def velocity(self, before: States, after: States) -> Array:
        velocity: Array = (after.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        return velocity

    def features(self, states: States) -> Array:
        return np.concatenate([states.qpos[:, 1:], states.qvel], axis=1)


class HalfCheetahDirV0(Direction, _FinnHalfCheetah):
    """doc"""


class HalfCheetahVelV0(Velocity, _FinnHalfCheetah):
    """doc"""

    velocity_range = (0.0, 2.0)


class HalfCheetahDirV1(Direction, _GymHalfCheetah):
    """doc"""


class HalfCheetahVelV1(Velocity, _GymHalfCheetah):
    """doc"""

    velocity_range = (0.0, 3.0)


BatchedHalfCheetahDirV0 = partial(BatchedLocomotion, HalfCheetahDirV0)
BatchedHalfCheetahVelV0 = partial(BatchedLocomotion, HalfCheetahVelV0)
BatchedHalfCheetahDirV1 = partial(BatchedLocomotion, HalfCheetahDirV1)
BatchedHalfCheetahVelV1 = partial(BatchedLocomotion, HalfCheetahVelV1)
