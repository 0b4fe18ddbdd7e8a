"""MuJoCo robots with tasks: a scalar face on Gymnasium's classes, a batched one on mujoco.rollout.

An environment is one class: Gymnasium's v5 robot, with formulas for tasks, observations and rewards
that work on rows of states. The scalar face applies them to one row, the batched face to all of
them, so that both agree to the last bit.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.utils import EzPickle
from mujoco import rollout

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription


# Episodes start at this time and not at 0: MuJoCo resets a simulation that diverges, clock
# included, and from 0 the first step could not be told from such a reset.
START_TIME = 1.0


class States(NamedTuple):
    """Rows of simulator states.

    Attributes:
        qpos: Generalized positions (rows, nq).
        qvel: Generalized velocities (rows, nv).
        sensors: Sensor readings *of these states* (rows, nsensordata).
    """

    qpos: Array
    qvel: Array
    sensors: Array


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MuJoCo's warnings out of MUJOCO_LOG.TXT, unless a user handles them already."""
    if mujoco.get_mju_user_warning() is not None:
        yield
        return
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)


class LocomotionEnv(MujocoEnv):  # type: ignore[misc]
    """Base of the scalar faces, mixed in before a robot of Gymnasium.

    Actions are in [−1, 1] and mapped to the actuators' range; anything beyond is clipped. The
    current `task` takes effect at the next reset. A simulation that diverges ends its episode:
    terminated, reward 0, the observation that went before, and ``info["diverged"]``.

    Class attributes:
        constants: Arguments of the Gymnasium class, such as ``frame_skip``.
    """

    constants: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, observe_task: bool = False, **kwargs: Any) -> None:
        """Load the model.

        Args:
            observe_task: Append the task to the observation (for an oracle).
            kwargs: Of Gymnasium's class: ``render_mode``, ``width``, ``height``, camera settings.
        """
        with quiet():
            super().__init__(**{**self.constants, **kwargs})
        EzPickle.__init__(self, observe_task=observe_task, **kwargs)
        self.observe_task = observe_task
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

    def features(self, states: States) -> Array:
        """Return what the policy sees of the robot, (rows, features)."""
        raise NotImplementedError

    def rewards(self, before: States, after: States, actions: Array, tasks: Array) -> Array:
        """Return the reward of each row.

        Args:
            before: States before the step.
            after: States after it.
            actions: Clipped to [−1, 1], (rows, nu).
            tasks: What :meth:`task_values` made of each row's task, (rows, values).
        """
        raise NotImplementedError

    def healthy(self, states: States) -> Array:
        """Say which rows may go on; by default all."""
        return np.ones(len(states.qpos), dtype=bool)

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw the displacement (nq,) and the velocity (nv,) that an episode starts with."""
        scale = self._reset_noise_scale
        moved = rng.uniform(-scale, scale, self.model.nq)
        return moved, scale * rng.standard_normal(self.model.nv)

    def task_model(self, task: TaskDescription) -> mujoco.MjModel:
        """Return the simulated model of a task; by default the same for all."""
        del task
        return self.model

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
        controls: Array = self._center + self._half_range * actions
        return controls

    def transition(
        self, before: States, after: States, actions: Array, tasks: Array, late: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return observations, rewards, terminations and divergences of rows.

        Args:
            before: States before the step.
            after: States after it.
            actions: Clipped to [−1, 1].
            tasks: Values of each row's task.
            late: By how much each row's clock differs from what it should show.
        """
        diverged = np.abs(late) > self.model.opt.timestep / 2
        if diverged.any():
            after = States(*(np.where(diverged[:, None], x, y) for x, y in zip(before, after)))
        rewards = np.where(diverged, 0.0, self.rewards(before, after, actions, tasks))
        return self.observe(after, tasks), rewards, diverged | ~self.healthy(after), diverged

    def _states(self) -> States:
        if self.model.nsensordata:
            mujoco.mj_forward(self.model, self.data)
        data = self.data
        return States(data.qpos[None].copy(), data.qvel[None].copy(), data.sensordata[None].copy())

    def reset_model(self) -> Array:
        """Start an episode of the current task."""
        self._values = self.task_values(self.task)[None]
        moved, velocity = self.noise(self.np_random)
        self.set_state(self.init_qpos + moved, self.init_qvel + velocity)
        self.data.time = START_TIME
        observation: Array = self.observe(self._states(), self._values)[0]
        return observation

    def _get_reset_info(self) -> dict[str, float]:
        return {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply an action for `frame_skip` substeps."""
        actions, before = self.clip(np.asarray(action)[None]), self._states()
        due = self.data.time + self.dt
        self.data.qacc_warmstart[:] = 0.0  # as every call of mujoco.rollout does
        with quiet():
            self.do_simulation(self.controls(actions)[0], self.frame_skip)
        late = np.array([self.data.time - due])
        seen, rewards, ended, diverged = self.transition(
            before, self._states(), actions, self._values, late
        )
        if self.render_mode == "human":
            self.render()
        info = {"diverged": bool(diverged[0])}
        return seen[0], float(rewards[0]), bool(ended[0]), False, info


class BatchedLocomotion(BatchedTaskEnv):
    """Many episodes of a :class:`LocomotionEnv` at once, stepped by MuJoCo's own threads.

    Ended rows are not simulated. Results do not depend on the number of threads.
    """

    def __init__(
        self,
        scalar: type[LocomotionEnv],
        num_envs: int = 1,
        *,
        max_episode_steps: int,
        num_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Make `num_envs` rows.

        Args:
            scalar: The environment.
            num_envs: Number of rows.
            max_episode_steps: Horizon.
            num_threads: Threads of the simulation; by default one for each available core.
            kwargs: Of the scalar environment.
        """
        self.formulas = scalar(**kwargs)  # never stepped: it lends its model and its formulas
        self.model = self.formulas.model
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self._pool: rollout.Rollout | None = None
        super().__init__(
            num_envs,
            self.formulas.observation_space,
            self.formulas.action_space,
            max_episode_steps=max_episode_steps,
        )

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw tasks from the distribution."""
        return self.formulas.sample_tasks(num_tasks, rng)

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        for task in {id(task): task for task in tasks}.values():
            self.formulas.task_values(task)

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        distinct = {id(task): task for task in tasks}
        values = {key: self.formulas.task_values(task) for key, task in distinct.items()}
        models = {key: self.formulas.task_model(task) for key, task in distinct.items()}
        self._values = np.stack([values[id(task)] for task in tasks])
        self._models = [models[id(task)] for task in tasks]
        self._shared = all(model is self._models[0] for model in self._models)
        noise = [self.formulas.noise(np.random.default_rng(seed)) for seed in seeds]
        moved, velocity = (np.stack(x) for x in zip(*noise, strict=True))
        size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._full = np.zeros((self.num_envs, size))
        nq, nv = self.model.nq, self.model.nv
        self._full[:, 0] = START_TIME
        self._full[:, 1 : 1 + nq] = self.formulas.init_qpos + moved
        self._full[:, 1 + nq : 1 + nq + nv] = self.formulas.init_qvel + velocity
        everyone, still = np.arange(self.num_envs), np.zeros((self.num_envs, self.model.nu))
        self._sensors = self._simulate(everyone, self._full, still, steps=0)[1]
        return self.formulas.observe(self._states(everyone), self._values)

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Array]]:
        rows = np.flatnonzero(~self._ended)
        before, full = self._states(rows), self._full[rows]
        clipped = self.formulas.clip(np.asarray(actions)[rows])
        after, sensors = self._simulate(rows, full, clipped, steps=self.formulas.frame_skip)
        late = after[:, 0] - full[:, 0] - self.formulas.dt
        self._full[rows], self._sensors[rows] = after, sensors
        seen, rewards, ended, diverged = self.formulas.transition(
            before, self._states(rows), clipped, self._values[rows], late
        )
        seen, rewards, ended, diverged = (
            self._spread(rows, x) for x in (seen, rewards, ended, diverged)
        )
        return seen, rewards, ended, {"diverged": diverged}

    def _states(self, rows: Array) -> States:
        nq, nv = self.model.nq, self.model.nv
        full = self._full[rows]
        return States(full[:, 1 : 1 + nq], full[:, 1 + nq : 1 + nq + nv], self._sensors[rows])

    def _spread(self, rows: Array, values: Array) -> Array:
        """Put the values of running rows into an array of all rows; the others get 0."""
        if len(rows) == self.num_envs:
            return values
        spread = np.zeros((self.num_envs, *values.shape[1:]), values.dtype)
        spread[rows] = values
        return spread

    def _simulate(self, rows: Array, full: Array, actions: Array, *, steps: int) -> tuple[Array, Array]:
        """Return the states of rows after `steps` substeps, and the sensors' readings of those.

        A rollout's readings belong to the state *before* each substep, so a model with sensors
        takes one substep more, whose state is thrown away.
        """
        sensing = int(self.model.nsensordata > 0)
        if steps + sensing == 0:
            return full, np.empty((len(rows), 0))
        if self._pool is None:
            self._pool = rollout.Rollout(nthread=self.num_threads if self.num_threads > 1 else 0)
            self._data = [mujoco.MjData(self.model) for _ in range(self.num_threads)]
        models = self._models[0] if self._shared else [self._models[row] for row in rows]
        controls = self.formulas.controls(actions)[:, None]
        with quiet():
            states, sensors = self._pool.rollout(
                models, self._data, full, controls, nstep=steps + sensing
            )
        readings = sensors[:, steps] if sensing else sensors[:, 0]
        return states[:, max(steps, 1) - 1], readings

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        del kwargs
        self._pool = None
