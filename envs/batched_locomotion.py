"""Vectorized robot environments, which step all episodes at once with ``mujoco.rollout``."""

import os
from typing import Any

import mujoco
import numpy as np
from mujoco import rollout

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription, distinct
from metarl.envs.locomotion import START_TIME, LocomotionEnv, States, quiet


def available_cores() -> int:
    """Return the number of CPU cores available to this process, at least 1.

    In distributed training, the cores of a machine are divided equally among
    the processes on this machine. The environment variable LOCAL_WORLD_SIZE
    contains the number of these processes.
    """
    affine = hasattr(os, "sched_getaffinity")  # not available on macOS and Windows
    cores = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class BatchedLocomotion(BatchedTaskEnv):
    """A vectorized :class:`LocomotionEnv` with simulations in parallel MuJoCo threads.

    Sub-environments whose episode has ended are not simulated. Results do not
    depend on the number of threads.
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
        """Create the vectorized environment with one sampled task per sub-environment.

        Args:
            scalar: Class of the scalar environment.
            num_envs: Number of sub-environments, each of which runs one episode at a time.
            max_episode_steps: Number of time steps after which episodes are truncated.
            num_threads: Number of simulation threads. Default: the result of
                :func:`available_cores`.
            kwargs: Keyword arguments for `scalar`.
        """
        super().__init__(scalar, num_envs, max_episode_steps=max_episode_steps, **kwargs)
        self.model, self.num_threads = self.formulas.model, num_threads or available_cores()
        self._pool: rollout.Rollout | None = None

    def reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start one episode per sub-environment; return the observations."""
        found, group = distinct(tasks)
        self._values = np.stack([self.formulas.task_values(task) for task in found])[group]
        models = [self.formulas.task_model(task) for task in found]
        self._models = [models[index] for index in group]
        self._shared = len({id(model) for model in models}) == 1
        noise = [self.formulas.noise(np.random.default_rng(seed)) for seed in seeds]
        moved, velocity = (np.stack(x) for x in zip(*noise, strict=True))
        size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._full = np.zeros((self.num_envs, size))
        self._full[:, 0] = START_TIME
        qpos, qvel = self._split(self._full)
        qpos[:], qvel[:] = self.formulas.init_qpos + moved, self.formulas.init_qvel + velocity
        everyone, still = np.arange(self.num_envs), np.zeros((self.num_envs, self.model.nu))
        _, readings = self._simulate(everyone, self._full, still, steps=0)
        states = self._with_sensors(self._full, readings)
        self._sensors = states.sensors
        return np.asarray(self.formulas.observe(states, self._values))

    def step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Array]]:
        """Advance the sub-environments by one time step."""
        rows = np.flatnonzero(~self._ended)
        full, tasks = self._full[rows], self._values[rows]
        before = States(*self._split(full), self._sensors[rows])
        clipped = self.formulas.clip(np.asarray(actions)[rows])
        moved, readings = self._simulate(rows, full, clipped, steps=self.formulas.frame_skip)
        after = self._with_sensors(moved, readings)
        self._full[rows], self._sensors[rows] = moved, after.sensors
        delay = moved[:, 0] - full[:, 0] - self.formulas.dt
        results = self.formulas.transition(before, after, clipped, tasks, delay)
        seen, rewards, ended, diverged = (self._scatter(rows, x) for x in results)
        return seen, rewards, ended, {"diverged": diverged}

    def _split(self, full: Array) -> tuple[Array, Array]:
        nq, nv = self.model.nq, self.model.nv
        return full[:, 1 : 1 + nq], full[:, 1 + nq : 1 + nq + nv]

    def _with_sensors(self, full: Array, readings: Array) -> States:
        qpos, qvel = self._split(full)
        return States(qpos, qvel, self.formulas.sense(qpos, qvel, readings))

    def _scatter(self, rows: Array, values: Array) -> Array:
        """Return an array of shape (num_envs, ...): `values` at the indices `rows`, 0 elsewhere."""
        spread = np.zeros((self.num_envs, *values.shape[1:]), values.dtype)
        spread[rows] = values
        return spread

    def _simulate(
        self, rows: Array, full: Array, actions: Array, *, steps: int
    ) -> tuple[Array, Array]:
        """Simulate some of the sub-environments for a number of substeps.

        MuJoCo's rollout returns the sensor readings *before* each substep.
        For a model with sensors, one additional substep is therefore
        simulated, and the resulting state is discarded.

        Args:
            rows: Indices of the sub-environments to simulate.
            full: Full physics states of these sub-environments.
            actions: Clipped actions of these sub-environments.
            steps: Number of substeps.

        Returns:
            The full physics states after the substeps, and the sensor readings in these states.
        """
        sensing = int(self.model.nsensordata > 0)
        if steps + sensing == 0 or len(rows) == 0:
            return full, np.empty((len(rows), self.model.nsensordata))
        if self._pool is None:
            self._pool = rollout.Rollout(nthread=self.num_threads if self.num_threads > 1 else 0)
            self._data = [mujoco.MjData(self.model) for _ in range(self.num_threads)]
        models = self._models[0] if self._shared else [self._models[row] for row in rows]
        controls, count = self.formulas.controls(actions)[:, None], steps + sensing
        with quiet():
            states, sensors = self._pool.rollout(models, self._data, full, controls, nstep=count)
        return states[:, max(steps, 1) - 1], sensors[:, steps * sensing]

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the simulation threads; `kwargs` are ignored."""
        self._pool = None
