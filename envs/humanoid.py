"""Humanoids that walk forwards or backwards."""

import mujoco
import numpy as np
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv

from metarl.envs.base import Array
from metarl.envs.locomotion import SpatialRobot, States
from metarl.envs.tasks import Direction


FORWARD_WEIGHT = 1.25


class HumanoidDir(Direction, SpatialRobot, HumanoidEnv):
    """A humanoid walks forwards or backwards.

    ## Description
    The direction is not observed: it shows in the rewards alone. A robot with 17 motors, in three
    dimensions; one step is five substeps of 0.003 s.

    Inertias and velocities of the bodies (`cinert`, `cvel`), forces of the motors (`qfrc_actuator`)
    and of contacts (`cfrc_ext`) are not observed, and contacts cost nothing: the simulator that
    steps all episodes at once does not report them. Peers observe 376 numbers, and subtract
    min(5e-7 ‖cfrc_ext‖², 10).

    ## Action space
    `Box(-1, 1, (17,))`, mapped to controls in ±0.4; larger actions are clipped.

    | num | action |
    |---|---|
    | 0-2 | torques at the abdomen (y, z, x) |
    | 3-6 | at the right hip (x, z, y) and knee |
    | 7-10 | at the left hip (x, z, y) and knee |
    | 11-13 | at the right shoulder (two) and elbow |
    | 14-16 | at the left shoulder (two) and elbow |

    ## Observation space
    `Box(-inf, inf, (45,))`

    | num | observation |
    |---|---|
    | 0 | height of the torso |
    | 1-4 | orientation of the torso, a quaternion |
    | 5-21 | angles of the joints: as the actions, but the abdomen's in the order z, y, x |
    | 22-27 | linear and angular velocity of the torso |
    | 28-44 | velocities of the joints |

    ## Rewards
    1.25 · direction · Δx / 0.015 s + 5 − 0.1 ‖0.4 action‖², where Δx is how far the center of mass
    of the whole body moved along x.

    ## Tasks
    `{"direction": 1}` or `{"direction": -1}`, with equal odds.

    ## Starting state
    Positions and velocities + U(−0.01, 0.01).

    ## Episode end
    Terminates when the torso's height leaves [1, 2]; truncated after 200 steps.

    ## Version history
    v1: the constants of ProMP's `humanoid_rand_direc` (Rothfuss et al. 2018, arXiv:1810.06784),
    which writes the weight as 0.25 and divides by one substep; and where an action of 1 is not 0.4.
    """

    heights = (1.0, 2.0)
    control_cost_weight = 0.1
    alive_bonus = 5.0

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Load the model of Gymnasium with a sensor more: where the center of mass is."""
        spec = mujoco.MjSpec.from_file(self.fullpath)
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_SUBTREECOM,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname="torso",
        )
        drawn = spec.visual.global_
        drawn.offwidth = max(drawn.offwidth, self.width)
        drawn.offheight = max(drawn.offheight, self.height)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def velocity(self, before: States, after: States) -> Array:
        """Return the velocity of the center of mass along x (rows,)."""
        return np.asarray((after.sensors[:, 0] - before.sensors[:, 0]) / self.dt)

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return direction · velocity, weighted (rows,)."""
        return FORWARD_WEIGHT * super().progress(velocity, tasks)
