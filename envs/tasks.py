"""Task distributions for robots: directions, target velocities and goal positions."""

from typing import ClassVar

import numpy as np

from metarl.envs.base import Array, TaskDescription, task_array


class Direction:
    """A task distribution with the directions 1 and −1, which are equally probable.

    Tasks have the form ``{"direction": 1}``. The velocity reward of a task is
    direction · velocity.
    """

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks with random directions, 1 or −1."""
        return [{"direction": 1 if bit else -1} for bit in rng.integers(2, size=num_tasks)]

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and return the direction as an array of shape (1,).

        Raises:
            ValueError: If the task is not ``{"direction": 1}`` or ``{"direction": -1}``.
        """
        direction = task_array(task, "direction", ())
        if abs(direction) != 1:
            raise ValueError(f"the direction of a task must be 1 or -1, got {task!r}")
        return direction[None]

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return the velocity rewards, direction · velocity, of shape (batch,)."""
        return tasks[:, 0] * velocity


class Velocity:
    """A task distribution with target velocities v* ~ U(velocity_range).

    Tasks have the form ``{"velocity": v*}``. The velocity reward of a task is
    −|velocity − v*|.

    Class attributes:
        velocity_range: Lowest and highest target velocity in m/s.
    """

    velocity_range: ClassVar[tuple[float, float]]

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks with random target velocities."""
        return [{"velocity": v} for v in rng.uniform(*self.velocity_range, num_tasks).tolist()]

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and return the target velocity in m/s, as an array of shape (1,).

        Raises:
            ValueError: If the task does not have the form ``{"velocity": v}``.
        """
        return task_array(task, "velocity", ())[None]

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return the velocity rewards, −|velocity − v*|, of shape (batch,)."""
        return np.asarray(-np.abs(velocity - tasks[:, 0]))


class Goal:
    """A task distribution with goals ``{"goal": [x, y]}`` in a disc around the origin.

    Goals are uniformly distributed. The goal reward of a task is −‖position − goal‖₁.

    Class attributes:
        goal_radius: Radius of the disc in m.
    """

    goal_radius: ClassVar[float]

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks with goals that are uniformly distributed in the disc."""
        radius = self.goal_radius * np.sqrt(rng.uniform(size=num_tasks))
        angle = rng.uniform(0.0, 2 * np.pi, num_tasks)
        goals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return [{"goal": goal} for goal in goals.tolist()]

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and return the goal in m, as an array of shape (2,).

        Raises:
            ValueError: If the task does not have the form ``{"goal": [x, y]}``.
        """
        return task_array(task, "goal", (2,))

    def goal_reward(self, positions: Array, tasks: Array) -> Array:
        """Return the goal rewards, −‖position − goal‖₁, of shape (batch,)."""
        return np.asarray(-np.abs(positions - tasks).sum(axis=1))
