"""What a robot may be asked to do: take a direction, keep a velocity, reach a place."""

from typing import ClassVar

import numpy as np

from metarl.envs.base import Array, TaskDescription, task_array


class Direction:
    """Tasks ``{"direction": ±1}``, drawn with equal odds; the reward is direction · velocity."""

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw directions."""
        return [{"direction": 1 if bit else -1} for bit in rng.integers(2, size=num_tasks)]

    def task_values(self, task: TaskDescription) -> Array:
        """Return the direction (1,)."""
        direction = task_array(task, "direction", ())
        if abs(direction) != 1:
            raise ValueError(f"the direction of a task is 1 or -1, got {task!r}")
        return direction[None]

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return what the task thinks of a velocity (rows,)."""
        return tasks[:, 0] * velocity


class Velocity:
    """Tasks ``{"velocity": v*}``, v* ~ U(range); the reward is −|velocity − v*|."""

    velocity_range: ClassVar[tuple[float, float]]

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw velocities."""
        return [{"velocity": v} for v in rng.uniform(*self.velocity_range, num_tasks).tolist()]

    def task_values(self, task: TaskDescription) -> Array:
        """Return the velocity (1,)."""
        return task_array(task, "velocity", ())[None]

    def progress(self, velocity: Array, tasks: Array) -> Array:
        """Return what the task thinks of a velocity (rows,)."""
        return np.asarray(-np.abs(velocity - tasks[:, 0]))


class Goal:
    """Tasks ``{"goal": [x, y]}``, uniform in a disc; the reward is −‖position − goal‖₁."""

    goal_radius: ClassVar[float]

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw goals; the root makes their density even, which a uniform radius would not."""
        radius = self.goal_radius * np.sqrt(rng.uniform(size=num_tasks))
        angle = rng.uniform(0.0, 2 * np.pi, num_tasks)
        goals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return [{"goal": goal} for goal in goals.tolist()]

    def task_values(self, task: TaskDescription) -> Array:
        """Return the goal (2,)."""
        return task_array(task, "goal", (2,))

    def goal_reward(self, positions: Array, tasks: Array) -> Array:
        """Return what the task thinks of positions (rows, 2)."""
        return np.asarray(-np.abs(positions - tasks).sum(axis=1))
