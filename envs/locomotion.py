"""MuJoCo robots with tasks: Gymnasium's robots, with formulas that work on rows of states.

An environment is one class. Its scalar face, here, applies the formulas to one row; the batched
one (:mod:`metarl.envs.batched_locomotion`) to all of them, so that both agree to the last bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.utils import EzPickle

from metarl.envs.base import Array, TaskDescription


# Episodes start at this time and not at 0: MuJoCo resets a simulation that diverges, clock
# included, and from 0 the first step could not be told from such a reset.
START_TIME = 1.0

DISPLAY = (
    *("render_mode", "width", "height", "camera_id", "camera_name"),
    *("default_camera_config", "max_geom", "visual_options"),
)


class States(NamedTuple):
    """Rows of simulator states.

    Attributes:
        qpos: Generalized positions (rows, nq).
        qvel: Generalized velocities (rows, nv).
        sensors: What the robot senses *in these states* (rows, readings).
    """

    qpos: Array
    qvel: Array
    sensors: Array


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MuJoCo's warnings out of MUJOCO_LOG.TXT, unless a user handles them already."""
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(handler or (lambda message: None))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)


class LocomotionEnv(MujocoEnv, EzPickle):
    """Base of the scalar faces, mixed in before a robot of Gymnasium.

    Actions are in [−1, 1] and mapped to the actuators' range; anything beyond is clipped. The
    current `task` takes effect at the next reset. A simulation that diverges ends its episode:
    terminated, reward 0, the observation that went before, and ``info["diverged"]``.

    A robot is described by these class attributes and by the methods under "the formulas":

    Class attributes:
        constants: Arguments of the Gymnasium class, such as ``frame_skip``.
        hidden_positions: How many of the leading positions the policy does not see.
        control_cost_weight: What a unit of squared control costs.
        alive_bonus: Reward of every step.
        normal_start: Draw the first velocities from a normal distribution, not a uniform one.
    """

    vectorized = "metarl.envs.batched_locomotion:BatchedLocomotion"
    constants: ClassVar[dict[str, Any]] = {}
    hidden_positions: ClassVar[int] = 1
    control_cost_weight: ClassVar[float]
    alive_bonus: ClassVar[float] = 0.0
    normal_start: ClassVar[bool] = False
    observation_space: "spaces.Box[Any]"  # quoted: not every supported Gymnasium has it generic
    _reset_noise_scale: float  # of Gymnasium's class

    def __init__(self, *, observe_task: bool = False, **kwargs: Any) -> None:
        """Load the model.

        Args:
            observe_task: Append the task to the observation (for an oracle).
            kwargs: The settings of Gymnasium's class named in `DISPLAY`.
        """
        if unknown := sorted(set(kwargs) - set(DISPLAY)):
            known = ", ".join(("observe_task", *DISPLAY))
            raise TypeError(f"{type(self).__name__} takes {known}; got {', '.join(unknown)}")
        with quiet():
            super().__init__(**{**self.constants, **kwargs})
        EzPickle.__init__(self, observe_task=observe_task, **kwargs)
        self.observe_task = observe_task
        self.nominal = self.model
        self.task: TaskDescription = self.sample_tasks(1, np.random.default_rng(0))[0]
        self._values = self.task_values(self.task)[None]
        size = self.observe(self._states(), self._values).shape[1]
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.observation_structure: dict[str, int] = {}  # that of the class no longer holds

    def _set_action_space(self) -> spaces.Box:
        low, high = self.model.actuator_ctrlrange.T
        self._center, self._half_range = (high + low) / 2, (high - low) / 2
        self.action_space = spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        return self.action_space

    # A copy is a new environment with the arguments and the task of this one.
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "task": self.task}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.task = state["task"]

    # The formulas: what a subclass says about its robot and its tasks.

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw tasks from the distribution."""
        raise NotImplementedError

    def task_values(self, task: TaskDescription) -> Array:
        """Check a task and turn it into a vector (values,).

        Raises:
            ValueError: If it is not a task of this environment.
        """
        raise NotImplementedError

    def task_model(self, task: TaskDescription) -> mujoco.MjModel:
        """Return the simulated model of a task; by default that of the robot, for all."""
        del task
        return self.nominal

    def sense(self, qpos: Array, qvel: Array, readings: Array) -> Array:
        """Return what else a robot needs to know of states, once for all formulas (rows, n).

        Args:
            qpos: Positions (rows, nq).
            qvel: Velocities (rows, nv).
            readings: Of the model's sensors, which are the default (rows, nsensordata).
        """
        del qpos, qvel
        return readings

    def features(self, states: States) -> Array:
        """Return what the policy sees of the robot, (rows, features)."""
        return np.concatenate([states.qpos[:, self.hidden_positions :], states.qvel], axis=1)

    def velocity(self, before: States, after: States) -> Array:
        """Return the velocity that is rewarded (rows,); by default the root's, along x."""
        return np.asarray((after.qpos[:, 0] - before.qpos[:, 0]) / self.dt)

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return what the task thinks of a velocity (rows,)."""
        raise NotImplementedError

    def rewards(self, before: States, after: States, actions: Array, tasks: Array) -> Array:
        """Return the reward of each row: progress + bonus − weight · ‖controls‖².

        Args:
            before: States before the step.
            after: States after it.
            actions: Clipped to [−1, 1], (rows, nu).
            tasks: What :meth:`task_values` made of each row's task, (rows, values).
        """
        progress = self.progress(self.velocity(before, after), tasks)
        return (
            progress + self.alive_bonus - self.control_cost_weight * self.squared_controls(actions)
        )

    def squared_controls(self, actions: Array) -> Array:
        """Return the sum of squared controls (rows,)."""
        return np.asarray(np.square(self.controls(actions)).sum(axis=1))

    def healthy(self, states: States) -> Array:
        """Say which rows may go on; by default all."""
        return np.ones(len(states.qpos), dtype=bool)

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw the displacement (nq,) and the velocity (nv,) that an episode starts with."""
        scale, (nq, nv) = self._reset_noise_scale, (self.model.nq, self.model.nv)
        displacement = rng.uniform(-scale, scale, nq)
        if self.normal_start:
            return displacement, scale * rng.standard_normal(nv)
        return displacement, rng.uniform(-scale, scale, nv)

    # What follows from them, for both faces.

    def observe(self, states: States, tasks: Array) -> Array:
        """Return observations (rows, features)."""
        seen = self.features(states)
        return np.concatenate([seen, tasks], axis=1) if self.observe_task else seen

    def clip(self, actions: Array) -> Array:
        """Limit actions to [−1, 1], in double precision."""
        return np.minimum(np.maximum(actions, -1.0), 1.0).astype(np.float64)

    def controls(self, actions: Array) -> Array:
        """Map clipped actions to the actuators' range."""
        return np.asarray(self._center + self._half_range * actions)

    def transition(
        self, before: States, after: States, actions: Array, tasks: Array, clock_error: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return observations, rewards, terminations and divergences of rows.

        Args:
            before: States before the step.
            after: States after it.
            actions: Clipped to [−1, 1].
            tasks: Values of each row's task.
            clock_error: By how much each row's clock differs from what it should show.
        """
        # MuJoCo resets a state that it finds to be bad, but not yet one that the last substep left.
        reset, limit = np.abs(clock_error) > self.model.opt.timestep / 2, mujoco.mjMAXVAL
        fine = (np.abs(after.qpos) < limit).all(axis=1) & (np.abs(after.qvel) < limit).all(axis=1)
        diverged = reset | ~fine
        if diverged.any():
            pairs = zip(before, after, strict=True)
            after = States(*(np.where(diverged[:, None], x, y) for x, y in pairs))
        rewards = np.where(diverged, 0.0, self.rewards(before, after, actions, tasks))
        return self.observe(after, tasks), rewards, diverged | ~self.healthy(after), diverged

    # The scalar face.

    def _states(self) -> States:
        if self.model.nsensordata:
            mujoco.mj_forward(self.model, self.data)
        data = self.data
        qpos, qvel = data.qpos[None].copy(), data.qvel[None].copy()
        return States(qpos, qvel, self.sense(qpos, qvel, data.sensordata[None].copy()))

    def _set_model(self, model: mujoco.MjModel) -> None:
        """Simulate and draw another model of this robot; the data belong to any of them."""
        self.model = self.mujoco_renderer.model = model
        if self.mujoco_renderer.viewer is not None:
            self.mujoco_renderer.viewer.model = model

    def reset_model(self) -> Array:
        """Start an episode of the current task."""
        self._values = self.task_values(self.task)[None]
        self._set_model(self.task_model(self.task))
        displacement, velocity = self.noise(self.np_random)
        with quiet():
            self.set_state(  # type: ignore[no-untyped-call]
                self.init_qpos + displacement, self.init_qvel + velocity
            )
            self.data.time = START_TIME
            return np.asarray(self.observe(self._states(), self._values)[0])

    def _get_reset_info(self) -> dict[str, float]:
        return {}

    def step(  # type: ignore[override]
        self, action: Array
    ) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply an action for `frame_skip` substeps."""
        actions, due = self.clip(np.asarray(action)[None]), self.data.time + self.dt
        with quiet():
            before = self._states()
            self.data.qacc_warmstart[:] = 0.0  # as every call of mujoco.rollout does
            self.do_simulation(self.controls(actions)[0], self.frame_skip)
            after = self._states()
        clock_error = np.array([self.data.time - due])
        seen, rewards, ended, diverged = self.transition(
            before, after, actions, self._values, clock_error
        )
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        info = {"diverged": bool(diverged[0])}
        return seen[0], float(rewards[0]), bool(ended[0]), False, info


class SpatialRobot(LocomotionEnv):
    """Base of the robots in three dimensions, which end where their torso is too low or too high.

    Class attributes:
        heights: Where the torso's height must be, the ends included.
    """

    constants = {"frame_skip": 5}  # noqa: RUF012
    hidden_positions = 2
    heights: ClassVar[tuple[float, float]]

    def healthy(self, states: States) -> Array:
        """Return whether the torso of each row is neither low nor high (rows,)."""
        low, high = self.heights
        return np.asarray((low <= states.qpos[:, 2]) & (states.qpos[:, 2] <= high))
