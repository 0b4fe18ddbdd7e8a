"""Ant environments in which a task is a direction, a target velocity or a goal position."""

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv

from metarl.envs.base import Array
from metarl.envs.locomotion import States
from metarl.envs.spatial import SpatialRobot
from metarl.envs.tasks import Direction, Goal, Velocity


class _Ant(SpatialRobot, AntEnv):
    """Base class for ant environments, whose rewards depend on the motion of the root.

    The root position is the origin of the torso's frame. Other
    implementations call the root position "com", although the center of mass
    is a different point.
    """

    normal_start = True


class AntDir(Direction, _Ant):
    """An ant that walks forwards or backwards.

    ## Description
    A quadruped with eight motors in three dimensions. The direction is not
    observed and only affects the rewards. One step is five substeps of 0.01
    s.

    Contact forces (`cfrc_ext`) are neither observed nor part of the reward,
    because the simulator that steps all episodes at once does not report
    contact forces. Other implementations observe 84 contact forces and
    subtract 0.0005 ‖contact forces‖² from the reward.

    ## Action space
    `Box(-1, 1, (8,))`; larger actions are clipped.

    | num | action |
    |---|---|
    | 0, 1 | torques at hip and ankle of leg 4 (right back) |
    | 2, 3 | torques at hip and ankle of leg 1 (front left) |
    | 4, 5 | torques at hip and ankle of leg 2 (front right) |
    | 6, 7 | torques at hip and ankle of leg 3 (left back) |

    ## Observation space
    `Box(-inf, inf, (27,))`

    | num | observation |
    |---|---|
    | 0 | height of the torso |
    | 1-4 | orientation of the torso, a quaternion |
    | 5-12 | angles of hip and ankle of legs 1, 2, 3, 4 |
    | 13-18 | linear and angular velocity of the torso |
    | 19-26 | velocities of the joints |

    ## Rewards
    direction · Δx / 0.05 s + 1 − 0.5 ‖action‖², where Δx is the displacement of the torso along x.

    ## Tasks
    `{"direction": 1}` or `{"direction": -1}`, with equal probability.

    ## Starting state
    Default positions plus noise from U(−0.1, 0.1), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates when the torso's height leaves [0, 1] m; truncated after 100 steps.

    ## Version history
    v1: uses the constants of ProMP's `ant_rand_direc` (Rothfuss et al. 2018,
    arXiv:1810.06784). There is no v0, because the rllab ant of Finn et al.
    2017 is a different robot.
    """

    control_cost_weight = 0.5
    alive_bonus = 1.0
    heights = (0.0, 1.0)


class AntVel(Velocity, _Ant):
    """An ant that walks at a target velocity.

    ## Description
    The target velocity is not observed and only affects the rewards. The
    physics are the same as in :class:`AntDir`, and contact forces are neither
    observed nor part of the reward.

    ## Action space
    `Box(-1, 1, (8,))`: torques, as in :class:`AntDir`.

    ## Observation space
    `Box(-inf, inf, (27,))`, as in :class:`AntDir`. In pytorch-maml-rl, the
    observation also contains the absolute position twice and the orientation
    as a rotation matrix.

    ## Rewards
    −|Δx / 0.05 s − v*| + 1.05 − 0.005 ‖action‖², where Δx is the displacement of the torso along x.

    ## Tasks
    `{"velocity": v*}` with v* ~ U(0, 3) m/s.

    ## Starting state
    Default positions plus noise from U(−0.1, 0.1), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates when the torso's height leaves [0.2, 1] m; truncated after 100 steps.

    ## Version history
    v1: the task of Finn et al. 2017 (arXiv:1703.03400) on Gymnasium's ant,
    with the constants of pytorch-maml-rl.
    """

    control_cost_weight = 0.005
    alive_bonus = 1.05  # 1 offsets negative velocity rewards, 0.05 is for staying alive
    heights = (0.2, 1.0)
    velocity_range = (0.0, 3.0)


class AntGoal(Goal, _Ant):
    """An ant that walks to a goal position.

    ## Description
    The goal is not observed and only affects the rewards. The physics are
    the same as in :class:`AntDir`, and contact forces are neither observed
    nor part of the reward.

    ## Action space
    `Box(-1, 1, (8,))`: torques, as in :class:`AntDir`.

    ## Observation space
    `Box(-inf, inf, (29,))`

    | num | observation |
    |---|---|
    | 0, 1 | position of the torso (x, y) |
    | 2-28 | as in :class:`AntDir` |

    ## Rewards
    −‖position − goal‖₁ − 0.1 ‖action‖², where position is the torso's (x, y) after the step.

    ## Tasks
    `{"goal": [x, y]}`, uniformly distributed in a disc with a radius of 3 m around the origin.

    ## Starting state
    Default positions plus noise from U(−0.1, 0.1), default velocities plus noise from N(0, 0.1²).

    ## Episode end
    Terminates only if the simulation diverges; truncated after 200 steps.

    ## Version history
    v1: uses the constants of ProMP's `ant_rand_goal` (Rothfuss et al. 2018, arXiv:1810.06784).
    """

    hidden_positions = 0
    control_cost_weight = 0.1
    heights = (-np.inf, np.inf)
    goal_radius = 3.0

    def rewards(self, before: States, after: States, actions: Array, tasks: Array) -> Array:
        """Return −‖position − goal‖₁ minus the control cost, of shape (batch,).

        See :meth:`LocomotionEnv.rewards <metarl.envs.locomotion.LocomotionEnv.rewards>`
        for the arguments.
        """
        goal_reward: Array = self.goal_reward(after.qpos[:, :2], tasks)
        return goal_reward - self.control_cost(actions)
