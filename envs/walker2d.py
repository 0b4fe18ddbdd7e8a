"""Walker environments in which a task is a direction or a target velocity."""

from typing import ClassVar

import numpy as np
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from metarl.envs.base import Array
from metarl.envs.locomotion import LocomotionEnv, States
from metarl.envs.tasks import Direction, Velocity


MAX_VELOCITY = 10.0  # observed velocities are clipped to this value


class Legged(LocomotionEnv):
    """Base class for planar legged robots; an episode terminates when the robot falls.

    Class attributes:
        heights: Lower and upper limit of the torso height in m. An episode
            continues while the height is between these limits.
        max_pitch: Limit of the torso's absolute pitch in radians. An episode
            continues while the absolute pitch is below this limit.
    """

    control_cost_weight = 1e-3
    alive_bonus = 1.0
    heights: ClassVar[tuple[float, float]]
    max_pitch: ClassVar[float]

    def features(self, states: States) -> Array:
        """Return positions except x, and velocities clipped to ±10, of shape (batch, features)."""
        clipped = np.clip(states.qvel, -MAX_VELOCITY, MAX_VELOCITY)
        return super().features(states._replace(qvel=clipped))

    def healthy(self, states: States) -> Array:
        """Return a mask of shape (batch,), True for torso heights and pitches within bounds."""
        height, pitch = states.qpos[:, 1], states.qpos[:, 2]
        low, high = self.heights
        return np.asarray((low < height) & (height < high) & (np.abs(pitch) < self.max_pitch))


class Walker2dRobot(Legged, Walker2dEnv):
    """Gymnasium's walker, with the same termination bounds but twice as many substeps."""

    constants = {"frame_skip": 8}  # noqa: RUF012
    heights = (0.8, 2.0)
    max_pitch = 1.0


class Walker2dDir(Direction, Walker2dRobot):
    """A walker that moves forwards or backwards.

    ## Description
    A planar biped with six motors. The direction is not observed and only
    affects the rewards. One step is eight substeps of 0.002 s, twice as many
    as in Gymnasium.

    ## Action space
    `Box(-1, 1, (6,))`; larger actions are clipped.

    | num | action |
    |---|---|
    | 0, 1, 2 | torques at the right thigh, leg and foot |
    | 3, 4, 5 | torques at the left thigh, leg and foot |

    ## Observation space
    `Box(-inf, inf, (17,))`

    | num | observation |
    |---|---|
    | 0, 1 | height and pitch of the torso |
    | 2-7 | angles of the joints, in the order of the actions |
    | 8-16 | velocities, clipped to ±10: root x and z, pitch, joints |

    ## Rewards
    direction · Δx / 0.016 s + 1 − 0.001 ‖action‖², where Δx is the
    displacement of the root along x.

    ## Tasks
    `{"direction": 1}` or `{"direction": -1}`, with equal probability.

    ## Starting state
    Default positions and velocities plus noise from U(−0.005, 0.005).

    ## Episode end
    Terminates unless 0.8 < height < 2 (m) and |pitch| < 1 (rad); truncated after 200 steps.

    ## Version history
    v1: uses the constants of ProMP's `walker2d_rand_direc` (Rothfuss et al. 2018,
    arXiv:1810.06784) on Gymnasium's v5 model, in which both feet have the
    same friction. In older models, the feet have different friction.
    """


class Walker2dVel(Velocity, Walker2dRobot):
    """A walker that moves at a target velocity.

    ## Description
    The target velocity is not observed and only affects the rewards. The
    physics are the same as in :class:`Walker2dDir`.

    ## Action space
    `Box(-1, 1, (6,))`: torques, as in :class:`Walker2dDir`.

    ## Observation space
    `Box(-inf, inf, (17,))`, as in :class:`Walker2dDir`.

    ## Rewards
    −|Δx / 0.016 s − v*| + 15 − 0.001 ‖action‖², where Δx is the displacement
    of the root along x. Because of the constant 15, the reward for standing
    still is positive for every target velocity, so that ending the episode by
    a fall is never better than standing.

    ## Tasks
    `{"velocity": v*}` with v* ~ U(0, 10) m/s.

    ## Starting state
    Default positions and velocities plus noise from U(−0.005, 0.005).

    ## Episode end
    Terminates unless 0.8 < height < 2 (m) and |pitch| < 1 (rad); truncated after 200 steps.

    ## Version history
    v1: uses the constants of ProMP's `walker2d_rand_vel` (Rothfuss et al. 2018, arXiv:1810.06784).
    """

    alive_bonus = 15.0
    velocity_range = (0.0, 10.0)
