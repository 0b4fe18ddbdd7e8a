"""A swimmer that swims at a target velocity."""

from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv

from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.tasks import Velocity


class SwimmerVel(Velocity, LocomotionEnv, SwimmerEnv):
    """A swimmer that swims at a target velocity.

    ## Description
    A planar robot with three links and two motors in a viscous fluid. The target velocity is not
    observed and only affects the rewards. One step is four substeps of 0.01
    s, so an episode lasts 4 s.

    ## Action space
    `Box(-1, 1, (2,))`: torques at the front and the back joint; larger actions are clipped.

    ## Observation space
    `Box(-inf, inf, (8,))`

    | num | observation |
    |---|---|
    | 0 | angle of the front link to the x axis |
    | 1, 2 | angles of the front and the back joint |
    | 3, 4 | velocity of the tip (x, y) |
    | 5-7 | angular velocities, in the order of the angles |

    ## Rewards
    −|Δx / 0.04 s − v*| − 0.0001 ‖action‖², where Δx is the displacement of
    the tip along x. ProMP's code has the opposite sign in the first term and
    thus rewards deviations from the target velocity.

    ## Tasks
    `{"velocity": v*}` with v* ~ U(0.1, 0.2) m/s.

    ## Starting state
    Default positions and velocities plus noise from U(−0.1, 0.1).

    ## Episode end
    Terminates only if the simulation diverges; truncated after 100 steps.

    ## Version history
    v1: uses the constants of ProMP's `swimmer_rand_vel` (Rothfuss et al. 2018,
    arXiv:1810.06784), with the sign of the reward corrected. No
    published experiment uses this environment, so the horizon is that of the
    half-cheetah environments.
    """

    constants = {"frame_skip": 4}  # noqa: RUF012
    hidden_positions = 2
    control_cost_weight = 1e-4
    velocity_range = (0.1, 0.2)
