"""Base classes for MuJoCo robots with task distributions.

Robot classes extend Gymnasium environments with formulas for observations, rewards and termination.
The scalar environment applies these formulas to one state. The vectorized environment
(:mod:`metarl.envs.batched_locomotion`) applies the same formulas to all
sub-environments, so that both return identical numbers.
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


# MuJoCo resets the state and the clock of a simulation that diverges. Episodes do not start at time
# 0, so that such a reset can be detected in the first step.
START_TIME = 1.0

DISPLAY = (
    *("render_mode", "width", "height", "camera_id", "camera_name"),
    *("default_camera_config", "max_geom", "visual_options"),
)


class States(NamedTuple):
    """A batch of simulator states, with one state per sub-environment.

    Attributes:
        qpos: Generalized positions, of shape (batch, nq).
        qvel: Generalized velocities, of shape (batch, nv).
        sensors: Values that :meth:`LocomotionEnv.sense` returns for these states, of shape
            (batch, sensors).
    """

    qpos: Array
    qvel: Array
    sensors: Array


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress MuJoCo's warnings inside a ``with`` block, unless a warning handler is installed.

    Without a handler, MuJoCo writes warnings to the file MUJOCO_LOG.TXT.
    """
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(handler or (lambda message: None))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)


class LocomotionEnv(MujocoEnv, EzPickle):
    """Base class for robot environments; list this class before the Gymnasium class in subclasses.

    Actions are clipped to [−1, 1] and mapped to the control range of the actuators. A new value of
    `task` takes effect at the next reset. If the simulation diverges, the episode terminates with
    reward 0, the previous observation and ``info["diverged"] = True``.

    Subclasses define the tasks by :meth:`sample_tasks`, :meth:`task_values` and :meth:`progress`,
    and the robot by class attributes. Subclasses can also override methods such as :meth:`rewards`.

    Class attributes:
        constants: Keyword arguments for the Gymnasium class, such as ``frame_skip``.
        hidden_positions: Number of leading elements of `qpos` that observations omit.
        control_cost_weight: Weight of the control cost, the sum of squared controls.
        alive_bonus: Constant reward per step.
        normal_start: Whether the initial velocities have a normal instead of a uniform
            distribution.
    """

    vectorized = "metarl.envs.batched_locomotion:BatchedLocomotion"
    constants: ClassVar[dict[str, Any]] = {}
    hidden_positions: ClassVar[int] = 1
    control_cost_weight: ClassVar[float]
    alive_bonus: ClassVar[float] = 0.0
    normal_start: ClassVar[bool] = False
    # Quoted, because Box is not generic in all supported versions of Gymnasium.
    observation_space: "spaces.Box[Any]"
    _reset_noise_scale: float  # defined by Gymnasium's class

    def __init__(self, *, observe_task: bool = False, **kwargs: Any) -> None:
        """Load the MuJoCo model.

        Args:
            observe_task: Whether to append the task to the observation, as for an oracle policy.
            kwargs: Rendering arguments for the Gymnasium class, such as ``render_mode``. The names
                must be in the constant ``DISPLAY``.

        Raises:
            TypeError: If any other keyword argument is passed.
        """
        if unknown := sorted(set(kwargs) - set(DISPLAY)):
            known = ", ".join(("observe_task", *DISPLAY))
            accepted = f"{type(self).__name__} only accepts the arguments {known}"
            raise TypeError(f"{accepted}, got {unknown}. Remove {', '.join(unknown)}")
        with quiet():
            super().__init__(**{**self.constants, **kwargs})
        EzPickle.__init__(self, observe_task=observe_task, **kwargs)
        self.observe_task = observe_task
        self.nominal = self.model
        self.task: TaskDescription = self.sample_tasks(1, np.random.default_rng(0))[0]
        self._values = self.task_values(self.task)[None]
        size = self.observe(self._states(), self._values).shape[1]
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def _set_action_space(self) -> spaces.Box:
        low, high = self.model.actuator_ctrlrange.T
        self._center, self._half_range = (high + low) / 2, (high - low) / 2
        self.action_space = spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        return self.action_space

    # A copy is a new environment with the same arguments and the same task.
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "task": self.task}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.task = state["task"]

    # The formulas, which subclasses override for their robot and tasks.

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` task descriptions from the task distribution with `rng`."""
        raise NotImplementedError

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and convert the description to a vector of shape (values,).

        Raises:
            ValueError: If the task is malformed.
        """
        raise NotImplementedError

    def task_model(self, task: TaskDescription) -> mujoco.MjModel:
        """Return the MuJoCo model for a task. By default, all tasks share one model."""
        return self.nominal

    def sense(self, qpos: Array, qvel: Array, readings: Array) -> Array:
        """Compute values that the other formulas need, such as the center of mass.

        Args:
            qpos: Generalized positions, of shape (batch, nq).
            qvel: Generalized velocities, of shape (batch, nv).
            readings: Readings of the sensors in the MuJoCo model, of shape (batch, nsensordata).

        Returns:
            An array of shape (batch, sensors); by default `readings`.
        """
        return readings

    def features(self, states: States) -> Array:
        """Return the observations of `states` without the task, of shape (batch, features)."""
        return np.concatenate([states.qpos[:, self.hidden_positions :], states.qvel], axis=1)

    def velocity(self, before: States, after: States) -> Array:
        """Return the mean velocity of the root along x in a step, in m/s, of shape (batch,)."""
        return np.asarray((after.qpos[:, 0] - before.qpos[:, 0]) / self.dt)

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return the task-dependent part of the reward, of shape (batch,).

        Args:
            velocity: Velocities from :meth:`velocity`, of shape (batch,).
            tasks: Task values from :meth:`task_values`, of shape (batch, values).
        """
        raise NotImplementedError

    def rewards(self, before: States, after: States, actions: Array, tasks: Array) -> Array:
        """Compute the rewards: progress + alive bonus − control cost.

        Args:
            before: States before the step.
            after: States after the step.
            actions: Actions clipped to [−1, 1], of shape (batch, nu).
            tasks: Task values from :meth:`task_values`, of shape (batch, values).

        Returns:
            Rewards of shape (batch,).
        """
        progress = self.progress(self.velocity(before, after), tasks)
        return progress + self.alive_bonus - self.control_cost(actions)

    def control_cost(self, actions: Array) -> Array:
        """Return control_cost_weight · ‖u‖² for the motor controls u, of shape (batch,)."""
        return self.control_cost_weight * np.asarray(np.square(self.controls(actions)).sum(axis=1))

    def healthy(self, states: States) -> Array:
        """Return a mask of shape (batch,), False where episodes terminate; by default, all True."""
        return np.ones(len(states.qpos), dtype=bool)

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Sample noise for initial positions, of shape (nq,), and velocities, of shape (nv,)."""
        scale, (nq, nv) = self._reset_noise_scale, (self.model.nq, self.model.nv)
        moved = rng.uniform(-scale, scale, nq)
        if self.normal_start:
            return moved, scale * rng.standard_normal(nv)
        return moved, rng.uniform(-scale, scale, nv)

    # Code shared by the scalar and the vectorized environment.

    def observe(self, states: States, tasks: Array) -> Array:
        """Return observations of shape (batch, features), with `tasks` if `observe_task` is set."""
        seen = self.features(states)
        return np.concatenate([seen, tasks], axis=1) if self.observe_task else seen

    def clip(self, actions: Array) -> Array:
        """Return the actions clipped to [−1, 1], as float64."""
        return np.minimum(np.maximum(actions, -1.0), 1.0).astype(np.float64)

    def controls(self, actions: Array) -> Array:
        """Map `actions` from [−1, 1] to the control range of the actuators; the shape is kept."""
        return np.asarray(self._center + self._half_range * actions)

    def transition(
        self, before: States, after: States, actions: Array, tasks: Array, delay: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Compute the results of a step.

        Args:
            before: States before the step.
            after: States after the step.
            actions: Actions clipped to [−1, 1], of shape (batch, nu).
            tasks: Task values, of shape (batch, values).
            delay: Simulated time minus expected time in s, of shape (batch,). A nonzero value means
                that MuJoCo has reset the simulation.

        Returns:
            Observations of shape (batch, features), and rewards, terminations and divergence flags
            of shape (batch,).
        """
        # MuJoCo resets a bad state at the next substep only, so the last state is checked here.
        reset, limit = np.abs(delay) > self.model.opt.timestep / 2, mujoco.mjMAXVAL
        valid = (np.abs(after.qpos) < limit).all(axis=1) & (np.abs(after.qvel) < limit).all(axis=1)
        diverged = reset | ~valid
        if diverged.any():
            pairs = zip(before, after, strict=True)
            after = States(*(np.where(diverged[:, None], x, y) for x, y in pairs))
        rewards = np.where(diverged, 0.0, self.rewards(before, after, actions, tasks))
        return self.observe(after, tasks), rewards, diverged | ~self.healthy(after), diverged

    # The scalar environment.

    def _states(self) -> States:
        if self.model.nsensordata:
            mujoco.mj_forward(self.model, self.data)
        data = self.data
        qpos, qvel = data.qpos[None].copy(), data.qvel[None].copy()
        return States(qpos, qvel, self.sense(qpos, qvel, data.sensordata[None].copy()))

    def _set_model(self, model: mujoco.MjModel) -> None:
        """Replace the MuJoCo model for simulation and rendering, and keep the simulation data."""
        self.model = self.mujoco_renderer.model = model
        if self.mujoco_renderer.viewer is not None:
            self.mujoco_renderer.viewer.model = model

    def reset_model(self) -> Array:
        """Start an episode on the current task and return the first observation."""
        self._values = self.task_values(self.task)[None]
        self._set_model(self.task_model(self.task))
        moved, velocity = self.noise(self.np_random)
        with quiet():
            self.set_state(  # type: ignore[no-untyped-call]
                self.init_qpos + moved, self.init_qvel + velocity
            )
            self.data.time = START_TIME
            return np.asarray(self.observe(self._states(), self._values)[0])

    def step(  # type: ignore[override]
        self, action: Array
    ) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Clip an action of shape (nu,) to [−1, 1] and apply the action for `frame_skip` substeps.

        Returns:
            Observation, reward, termination, truncation (always False) and the info dictionary.
        """
        actions, due = self.clip(np.asarray(action)[None]), self.data.time + self.dt
        with quiet():
            before = self._states()
            self.data.qacc_warmstart[:] = 0.0  # as in mujoco.rollout, for identical results
            self.do_simulation(self.controls(actions)[0], self.frame_skip)
            after = self._states()
        delay = np.array([self.data.time - due])
        results = self.transition(before, after, actions, self._values, delay)
        seen, rewards, ended, diverged = (values[0] for values in results)
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        return seen, float(rewards), bool(ended), False, {"diverged": bool(diverged)}
