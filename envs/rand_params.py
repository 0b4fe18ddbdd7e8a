"""Robots whose bodies differ from task to task: masses, inertias, damping, friction."""

import copy
from typing import ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from metarl.envs.base import Array, TaskDescription, brief, task_arrays
from metarl.envs.locomotion import LocomotionEnv, States, quiet
from metarl.envs.walker2d import Legged, Walker2dRobot


class RandParams(LocomotionEnv):
    """Tasks ``{"scales": {"body_mass": [...], ...}}``: factors of each element of model fields.

    Class attributes:
        bases: For each field of the model, the b of the distribution bᵘ, u ~ U(exponents).
        exponents: Their range.
    """

    bases: ClassVar[dict[str, float]] = {
        "body_mass": 1.5,
        "body_inertia": 1.5,
        "geom_friction": 1.5,
        "dof_damping": 1.3,
    }
    exponents: ClassVar[tuple[float, float]] = (-3.0, 3.0)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the fields."""
        return {name: getattr(self.nominal, name).shape for name in self.bases}

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw factors."""
        return [{"scales": self._draw(rng)} for _ in range(num_tasks)]

    def _draw(self, rng: np.random.Generator) -> TaskDescription:
        shapes, exponents = self.shapes, self.exponents
        drawn = {name: self.bases[name] ** rng.uniform(*exponents, shapes[name]) for name in shapes}
        return {name: factors.tolist() for name, factors in drawn.items()}

    def task_values(self, task: TaskDescription) -> Array:
        """Return all factors (values,), in the order of `bases`.

        Raises:
            ValueError: If there is not one positive factor for each element of the fields.
        """
        factors = task_arrays(task, self.shapes, under="scales")
        for (name, shape), values in zip(self.shapes.items(), factors, strict=True):
            if not (values > 0).all():
                got = brief(values.tolist())
                raise ValueError(f"the factors of {name} are positive, of shape {shape}; got {got}")
        return np.concatenate([values.ravel() for values in factors])

    def task_model(self, task: TaskDescription) -> mujoco.MjModel:
        """Return the robot with the factors of a task."""
        model = copy.copy(self.nominal)
        for name, scales in task["scales"].items():
            getattr(model, name)[:] *= scales
        # The compiler has left numbers in the model that follow from masses and inertias, such as
        # the inverse weights which set how soft contacts are; without this they stay the old ones.
        with quiet():
            mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return the velocity: every body should run forwards."""
        return velocity


class HopperRandParams(RandParams, Legged, HopperEnv):
    """A hopper whose body is another in every task runs forwards.

    ## Description
    Neither the task nor what it changes is observed. A planar leg with three motors; one step is
    four substeps of 0.002 s. Masses and inertias are scaled independently of one another, so some
    bodies are such as no solid could be, in the peers as here.

    ## Action space
    `Box(-1, 1, (3,))`: torques at thigh, leg and foot; larger actions are clipped.

    ## Observation space
    `Box(-inf, inf, (11,))`

    | num | observation |
    |---|---|
    | 0, 1 | height and pitch of the torso |
    | 2-4 | angles of thigh, leg and foot |
    | 5-10 | velocities, clipped to ±10: root x and z, pitch, joints |

    ## Rewards
    Δx / 0.008 s + 1 − 0.001 ‖action‖², where Δx is how far the root moved along x.

    ## Tasks
    `{"scales": {...}}`, factors of masses, inertias, friction and damping. There is one for every
    element of these fields of the model (the world and the floor included), `{"body_mass": [5],
    "body_inertia": [5][3], "geom_friction": [5][3], "dof_damping": [6]}`: 1.5ᵘ, for damping 1.3ᵘ,
    with u ~ U(−3, 3) of its own.

    ## Starting state
    Positions and velocities + U(−0.005, 0.005).

    ## Episode end
    Terminates unless height > 0.7, |pitch| < 0.2 and everything else is within ±100; truncated
    after 200 steps.

    ## Version history
    v1: the constants of rand_param_envs, as ProMP uses it (Rothfuss et al. 2018, arXiv:1810.06784);
    MuJoCo's derived constants follow the new masses here, as they do not there.
    """

    constants = {"frame_skip": 4}  # noqa: RUF012
    heights = (0.7, np.inf)
    max_pitch = 0.2
    max_state: ClassVar[float] = 100.0

    def healthy(self, states: States) -> Array:
        """Say which rows stand, and have no joint or velocity out of bounds."""
        rest = np.concatenate([states.qpos[:, 2:], states.qvel], axis=1)
        bounded: Array = (np.abs(rest) < self.max_state).all(axis=1)
        return super().healthy(states) & bounded


class Walker2dRandParams(RandParams, Walker2dRobot):
    """A walker whose body is another in every task runs forwards.

    ## Description
    Neither the task nor what it changes is observed. The robot of
    :class:`~metarl.envs.walker2d.Walker2dDir`, but one step is four substeps of 0.002 s.

    ## Action space
    `Box(-1, 1, (6,))`: torques at the right, then the left thigh, leg and foot; larger actions are
    clipped.

    ## Observation space
    `Box(-inf, inf, (17,))`, as in :class:`~metarl.envs.walker2d.Walker2dDir`.

    ## Rewards
    Δx / 0.008 s + 1 − 0.001 ‖action‖², where Δx is how far the root moved along x.

    ## Tasks
    `{"scales": {...}}`, factors of masses, inertias, friction and damping. They are drawn as in
    :class:`HopperRandParams`, for `{"body_mass": [8], "body_inertia": [8][3], "geom_friction":
    [8][3], "dof_damping": [9]}`.

    ## Starting state
    Positions and velocities + U(−0.005, 0.005).

    ## Episode end
    Terminates unless 0.8 < height < 2 and |pitch| < 1; truncated after 200 steps.

    ## Version history
    v1: the constants of rand_param_envs, as ProMP uses it (Rothfuss et al. 2018, arXiv:1810.06784);
    its "5" substeps are ignored there too.
    """

    constants = {"frame_skip": 4}  # noqa: RUF012
