"""Robots whose masses, inertias, damping and friction are randomized per task."""

import copy
from typing import ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from metarl.envs.base import Array, TaskDescription, brief, task_arrays
from metarl.envs.locomotion import LocomotionEnv, States, quiet
from metarl.envs.walker2d import Legged, Walker2dRobot


class RandParams(LocomotionEnv):
    """Base class for robots whose body parameters are multiplied by random factors in each task.

    A task has the form ``{"scales": {"body_mass": [...], ...}}``, with one
    factor for every element of every randomized field of the MuJoCo model. A
    factor is bᵘ with u ~ U(exponents).

    Class attributes:
        bases: Base b for each randomized field of the MuJoCo model.
        exponents: Lowest and highest exponent u.
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
        """Shapes of the randomized fields of the MuJoCo model, by name."""
        return {name: getattr(self.nominal, name).shape for name in self.bases}

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks with independent random factors for all model fields."""
        return [{"scales": self._draw(rng)} for _ in range(num_tasks)]

    def _draw(self, rng: np.random.Generator) -> TaskDescription:
        shapes, exponents = self.shapes, self.exponents
        drawn = {name: self.bases[name] ** rng.uniform(*exponents, shapes[name]) for name in shapes}
        return {name: factors.tolist() for name, factors in drawn.items()}

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and return the factors as a vector, in the order of `bases`.

        Raises:
            ValueError: If the task does not contain one positive factor per element of each field.
        """
        factors = task_arrays(task, self.shapes, under="scales")
        for (name, shape), values in zip(self.shapes.items(), factors, strict=True):
            if not (values > 0).all():
                got = brief(values.tolist())
                raise ValueError(
                    f"factors for {name} must be positive and of shape {shape}, got {got}"
                )
        return np.concatenate([values.ravel() for values in factors])

    def task_model(self, task: TaskDescription) -> mujoco.MjModel:
        """Return a copy of the MuJoCo model, with fields multiplied by the factors in `task`."""
        model = copy.copy(self.nominal)
        for name, scales in task["scales"].items():
            getattr(model, name)[:] *= scales
        # Recompute the constants that the compiler derives from masses and inertias, such as the
        # inverse weights that determine the softness of contacts.
        with quiet():
            mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return `velocity` unchanged, because every task rewards running forwards."""
        return velocity


class HopperRandParams(RandParams, Legged, HopperEnv):
    """A hopper with body parameters randomized per task, rewarded for running forwards.

    ## Description
    A planar leg with three motors. The task and the randomized parameters are
    not observed. One step is four substeps of 0.002 s. As in other
    implementations, masses and inertias are scaled independently, so that
    some combinations are impossible for a rigid body.

    ## Action space
    `Box(-1, 1, (3,))`: torques at the thigh, leg and foot; larger actions are clipped.

    ## Observation space
    `Box(-inf, inf, (11,))`

    | num | observation |
    |---|---|
    | 0, 1 | height and pitch of the torso |
    | 2-4 | angles of thigh, leg and foot |
    | 5-10 | velocities, clipped to ±10: root x and z, pitch, joints |

    ## Rewards
    Δx / 0.008 s + 1 − 0.001 ‖action‖², where Δx is the displacement of the root along x.

    ## Tasks
    `{"scales": {...}}`: factors for masses, inertias, friction and damping.
    There is one factor for every element of the model fields, including the
    world and the floor, with the shapes `{"body_mass": [5], "body_inertia":
    [5][3], "geom_friction": [5][3], "dof_damping": [6]}`. A factor is 1.5ᵘ,
    or 1.3ᵘ for damping, with an independent u ~ U(−3, 3).

    ## Starting state
    Default positions and velocities plus noise from U(−0.005, 0.005).

    ## Episode end
    Terminates unless height > 0.7 m, |pitch| < 0.2 rad, and all other
    positions and velocities are within ±100; truncated after 200 steps.

    ## Version history
    v1: uses the constants of rand_param_envs, as used by ProMP (Rothfuss et al.
    2018, arXiv:1810.06784). Unlike in rand_param_envs, the constants that
    MuJoCo derives from the masses are recomputed for every task.
    """

    constants = {"frame_skip": 4}  # noqa: RUF012
    heights = (0.7, np.inf)
    max_pitch = 0.2
    max_state: ClassVar[float] = 100.0

    def healthy(self, states: States) -> Array:
        """Return a mask of shape (batch,), False where the robot falls or a value exceeds ±100."""
        rest = np.concatenate([states.qpos[:, 2:], states.qvel], axis=1)
        bounded: Array = (np.abs(rest) < self.max_state).all(axis=1)
        return super().healthy(states) & bounded


class Walker2dRandParams(RandParams, Walker2dRobot):
    """A walker with body parameters randomized per task, rewarded for running forwards.

    ## Description
    The same robot as in :class:`~metarl.envs.walker2d.Walker2dDir`, but one
    step is four substeps of 0.002 s. The task and the randomized parameters are not
    observed.

    ## Action space
    `Box(-1, 1, (6,))`: torques, as in :class:`~metarl.envs.walker2d.Walker2dDir`.

    ## Observation space
    `Box(-inf, inf, (17,))`, as in :class:`~metarl.envs.walker2d.Walker2dDir`.

    ## Rewards
    Δx / 0.008 s + 1 − 0.001 ‖action‖², where Δx is the displacement of the root along x.

    ## Tasks
    `{"scales": {...}}`: factors for masses, inertias, friction and damping,
    which are sampled as in :class:`HopperRandParams` with the shapes
    `{"body_mass": [8], "body_inertia": [8][3], "geom_friction": [8][3],
    "dof_damping": [9]}`.

    ## Starting state
    Default positions and velocities plus noise from U(−0.005, 0.005).

    ## Episode end
    Terminates unless 0.8 < height < 2 (m) and |pitch| < 1 (rad); truncated after 200 steps.

    ## Version history
    v1: uses the constants of rand_param_envs, as used by ProMP (Rothfuss et al.
    2018, arXiv:1810.06784). The five substeps in the code of rand_param_envs
    have no effect.
    """

    constants = {"frame_skip": 4}  # noqa: RUF012
