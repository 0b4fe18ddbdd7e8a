"""A humanoid that walks forwards or backwards."""

import mujoco
import numpy as np
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv

from metarl.envs.base import Array
from metarl.envs.locomotion import States
from metarl.envs.spatial import SpatialRobot
from metarl.envs.tasks import Direction


FORWARD_WEIGHT = 1.25


class HumanoidDir(Direction, SpatialRobot, HumanoidEnv):
    """A humanoid that walks forwards or backwards.

    ## Description
    A robot with 17 motors in three dimensions. The direction is not observed
    and only affects the rewards. One step is five substeps of 0.003 s.

    The body inertias and velocities (`cinert`, `cvel`), the actuator
    forces (`qfrc_actuator`) and the contact forces (`cfrc_ext`) are not
    observed, and the reward does not include a contact cost, because the
    simulator that steps all episodes at once does not report these values.
    Other implementations observe 376 values and subtract min(5e-7
    ‖cfrc_ext‖², 10) from the reward.

    ## Action space
    `Box(-1, 1, (17,))`, mapped to controls in ±0.4; larger actions are clipped.

    | num | action |
    |---|---|
    | 0-2 | torques at the abdomen (y, z, x) |
    | 3-6 | torques at the right hip (x, z, y) and knee |
    | 7-10 | torques at the left hip (x, z, y) and knee |
    | 11-13 | torques at the right shoulder (two) and elbow |
    | 14-16 | torques at the left shoulder (two) and elbow |

    ## Observation space
    `Box(-inf, inf, (45,))`

    | num | observation |
    |---|---|
    | 0 | height of the torso |
    | 1-4 | orientation of the torso, a quaternion |
    | 5-21 | angles of the joints, in the order of the actions, but z, y, x for the abdomen |
    | 22-27 | linear and angular velocity of the torso |
    | 28-44 | velocities of the joints |

    ## Rewards
    1.25 · direction · Δx / 0.015 s + 5 − 0.1 ‖0.4 action‖², where Δx is the
    displacement of the center of mass of the whole body along x.

    ## Tasks
    `{"direction": 1}` or `{"direction": -1}`, with equal probability.

    ## Starting state
    Default positions and velocities plus noise from U(−0.01, 0.01).

    ## Episode end
    Terminates when the torso's height leaves [1, 2] m; truncated after 200 steps.

    ## Version history
    v1: uses the constants of ProMP's `humanoid_rand_direc` (Rothfuss et al. 2018,
    arXiv:1810.06784). ProMP uses a weight of 0.25 and divides by the length
    of one substep, which results in the same velocity reward. In
    ProMP, actions are not mapped to controls in ±0.4.
    """

    heights = (1.0, 2.0)
    control_cost_weight = 0.1
    alive_bonus = 5.0

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Return Gymnasium's model with an added center-of-mass sensor, and its simulation data."""
        spec = mujoco.MjSpec.from_file(self.fullpath)
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_SUBTREECOM,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname="torso",
        )
        visual = spec.visual.global_
        visual.offwidth = max(visual.offwidth, self.width)
        visual.offheight = max(visual.offheight, self.height)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def velocity(self, before: States, after: States) -> Array:
        """Return the mean velocity of the center of mass along x in m/s, of shape (batch,)."""
        return np.asarray((after.sensors[:, 0] - before.sensors[:, 0]) / self.dt)

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return the velocity rewards, 1.25 · direction · velocity, of shape (batch,)."""
        return FORWARD_WEIGHT * super().progress(velocity, tasks)
