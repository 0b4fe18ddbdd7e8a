"""Half-cheetah environments in which a task is a direction or a target velocity."""

from functools import cached_property

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

from metarl.envs.base import Array
from metarl.envs.locomotion import LocomotionEnv, States
from metarl.envs.planar import PlanarMass
from metarl.envs.tasks import Direction, Velocity


class _HalfCheetah(LocomotionEnv, HalfCheetahEnv):
    control_cost_weight = 0.05  # 0.1 in Gymnasium


class _FinnHalfCheetah(_HalfCheetah):
    """Base class for half-cheetahs with the physics of Finn et al. 2017.

    One step is one substep of 0.01 s. Observations have 20 elements, and the
    rewards depend on the velocity of the center of mass.
    """

    constants = {"frame_skip": 1}  # noqa: RUF012

    @cached_property
    def mass(self) -> PlanarMass:
        return PlanarMass(self.nominal)

    def sense(self, qpos: Array, qvel: Array, readings: Array) -> Array:
        return np.concatenate(self.mass.center(qpos, qvel), axis=1)

    def velocity(self, before: States, after: States) -> Array:
        return after.sensors[:, 3]

    def features(self, states: States) -> Array:
        return np.concatenate([super().features(states), states.sensors[:, :3]], axis=1)

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        moved = 0.01 * rng.standard_normal(self.model.nq)
        return moved, 0.1 * rng.standard_normal(self.model.nv)


class _GymHalfCheetah(_HalfCheetah):
    """Base class for half-cheetahs with the physics of Gymnasium.

    One step is five substeps of 0.01 s. Observations have 17 elements, and the
    rewards depend on the velocity of the root.
    """

    constants = {"frame_skip": 5}  # noqa: RUF012
    normal_start = True


class RllabHalfCheetahDir(Direction, _FinnHalfCheetah):
    """A half-cheetah that runs forwards or backwards, with the physics of Finn et al. 2017.

    ## Description
    A planar robot with six motors. The direction is not observed and only
    affects the rewards. One step is one substep of 0.01 s, so an episode
    lasts 2 s. The robot starts close to rest.

    ## Action space
    `Box(-1, 1, (6,))`; larger actions are clipped.

    | num | action |
    |---|---|
    | 0, 1, 2 | torques at the back thigh, shin and foot |
    | 3, 4, 5 | torques at the front thigh, shin and foot |

    ## Observation space
    `Box(-inf, inf, (20,))`

    | num | observation |
    |---|---|
    | 0, 1 | height and pitch of the torso |
    | 2-7 | angles of the joints, in the order of the actions |
    | 8-16 | velocities: root x and z, pitch, joints |
    | 17, 18, 19 | center of mass of the whole body (x, y, z); y is 0 |

    The absolute x coordinate is observed, as in Finn et al. 2017 but unlike `HalfCheetahDir-v1`.

    ## Rewards
    direction · v − 0.05 ‖action‖², where v is the velocity of the center of
    mass along x right after the step.

    ## Tasks
    `{"direction": 1}` or `{"direction": -1}`, with equal probability.

    ## Starting state
    Default positions plus noise from N(0, 0.01²), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates only if the simulation diverges; truncated after 200 steps.

    ## Version history
    v0: the environment of Finn et al. 2017 (arXiv:1703.03400) and the
    accompanying rllab code. Returns are not comparable with returns of
    `HalfCheetahDir-v1`, which uses Gymnasium's physics.
    """


class RllabHalfCheetahVel(Velocity, _FinnHalfCheetah):
    """A half-cheetah that runs at a target velocity, with the physics of Finn et al. 2017.

    ## Description
    The target velocity is not observed and only affects the rewards. The
    physics are the same as in :class:`RllabHalfCheetahDir`.

    ## Action space
    `Box(-1, 1, (6,))`: torques, as in :class:`RllabHalfCheetahDir`.

    ## Observation space
    `Box(-inf, inf, (20,))`, as in :class:`RllabHalfCheetahDir`.

    ## Rewards
    −|v − v*| − 0.05 ‖action‖², where v is the velocity of the center of mass
    along x right after the step.

    ## Tasks
    `{"velocity": v*}` with v* ~ U(0, 2) m/s.

    ## Starting state
    Default positions plus noise from N(0, 0.01²), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates only if the simulation diverges; truncated after 200 steps.

    ## Version history
    v0: the environment of Finn et al. 2017 (arXiv:1703.03400) and the
    accompanying rllab code. Returns are not comparable with returns of
    `HalfCheetahVel-v1`, which uses Gymnasium's physics and target velocities
    from U(0, 3).
    """

    velocity_range = (0.0, 2.0)


class HalfCheetahDir(Direction, _GymHalfCheetah):
    """A half-cheetah that runs forwards or backwards, with Gymnasium's physics.

    ## Description
    A planar robot with six motors. The direction is not observed and only
    affects the rewards. One step is five substeps of 0.01 s, so an episode
    lasts 5 s.

    ## Action space
    `Box(-1, 1, (6,))`; larger actions are clipped.

    | num | action |
    |---|---|
    | 0, 1, 2 | torques at the back thigh, shin and foot |
    | 3, 4, 5 | torques at the front thigh, shin and foot |

    ## Observation space
    `Box(-inf, inf, (17,))`

    | num | observation |
    |---|---|
    | 0, 1 | height and pitch of the torso |
    | 2-7 | angles of the joints, in the order of the actions |
    | 8-16 | velocities: root x and z, pitch, joints |

    ## Rewards
    direction · Δx / 0.05 s − 0.05 ‖action‖², where Δx is the displacement of the root along x.

    ## Tasks
    `{"direction": 1}` or `{"direction": -1}`, with equal probability.

    ## Starting state
    Default positions plus noise from U(−0.1, 0.1), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates only if the simulation diverges; truncated after 100 steps.

    ## Version history
    v1: the environment of ProMP (Rothfuss et al. 2018, arXiv:1810.06784) and
    later work. Most of these implementations use actions in [−10, 10]
    instead. The environment of Finn et al. 2017 is `RllabHalfCheetahDir-v0`.
    """


class HalfCheetahVel(Velocity, _GymHalfCheetah):
    """A half-cheetah that runs at a target velocity, with Gymnasium's physics.

    ## Description
    The target velocity is not observed and only affects the rewards. The
    physics are the same as in :class:`HalfCheetahDir`.

    ## Action space
    `Box(-1, 1, (6,))`: torques, as in :class:`HalfCheetahDir`.

    ## Observation space
    `Box(-inf, inf, (17,))`, as in :class:`HalfCheetahDir`.

    ## Rewards
    −|Δx / 0.05 s − v*| − 0.05 ‖action‖², where Δx is the displacement of the root along x.

    ## Tasks
    `{"velocity": v*}` with v* ~ U(0, 3) m/s. ProMP, PEARL and VariBAD use the
    same range; Finn et al. 2017 use U(0, 2).

    ## Starting state
    Default positions plus noise from U(−0.1, 0.1), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates only if the simulation diverges; truncated after 100 steps.

    ## Version history
    v1: the environment of ProMP (Rothfuss et al. 2018, arXiv:1810.06784) and
    later work. The environment of Finn et al. 2017 is
    `RllabHalfCheetahVel-v0`.
    """

    velocity_range = (0.0, 3.0)
