"""Scalar and vectorized base classes for environments in which a point moves on a plane."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription, task_array


HORIZON = 100

GRAY, RED, BLUE = (200, 200, 200), (214, 39, 40), (31, 119, 180)
SIZE = 240  # height and width of a rendered image in pixels
RADIUS = 6  # radius of a rendered point in pixels


class PointEnv(gymnasium.Env[Array, Array]):
    """Base class for point environments, whose formulas apply to one point or to many points.

    Class attributes:
        max_step: Distance that the point moves along an axis in one step for
            an action of 1.
        goal_range: Maximum absolute coordinate of a goal.
        start_range: Maximum absolute coordinate of a starting position.
        landmarks: Positions of gray points in rendered images, of shape
            (landmarks, 2).
        half_width: Maximum absolute coordinate in rendered images.
    """

    vectorized = "metarl.envs.point:BatchedPointEnv"
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's name)
    max_step: ClassVar[float]
    goal_range: ClassVar[float]
    start_range: ClassVar[float] = 0.0
    landmarks: ClassVar[Array] = np.zeros((1, 2))
    half_width: ClassVar[float]

    def __init__(
        self, *, observe_task: bool = False, render_mode: str | None = None, horizon: int = HORIZON
    ) -> None:
        """Create the environment with the goal ``[goal_range, goal_range]``.

        Args:
            observe_task: Whether to append the goal to the observation.
            render_mode: ``"rgb_array"``, or None to disable rendering.
            horizon: Number of time steps per episode, which determines the
                bounds of the observation space.
        """
        self.observe_task, self.render_mode = observe_task, render_mode
        bounds = [self.start_range + self.max_step * horizon] * 2
        high = np.array(bounds + [self.goal_range] * 2 * observe_task, np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.task: TaskDescription = {"goal": [self.goal_range, self.goal_range]}
        self._goal, self._position = np.full(2, self.goal_range), np.zeros(2)

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and return the goal, of shape (2,).

        Raises:
            ValueError: If the task does not have the form ``{"goal": [x, y]}``.
        """
        return task_array(task, "goal", (2,))

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Advance points by one time step; defined by subclasses.

        Args:
            positions: Positions, of shape (..., 2).
            actions: Actions before clipping to [−1, 1], of shape (..., 2).
            goals: Goals, of shape (..., 2).

        Returns:
            New positions of shape (..., 2), and rewards and terminations of shape (...).
        """
        raise NotImplementedError

    def next_positions(self, positions: Array, actions: Array) -> Array:
        """Return the positions after one time step with clipped actions, of shape (..., 2)."""
        # np.minimum and np.maximum take a third of the time of np.clip on arrays of this size.
        return np.asarray(positions + self.max_step * np.minimum(np.maximum(actions, -1.0), 1.0))

    def start(self, rng: np.random.Generator) -> Array:
        """Sample a starting position uniformly within `start_range`, of shape (2,)."""
        return rng.uniform(-self.start_range, self.start_range, 2)

    def observe(self, positions: Array, goals: Array) -> Array:
        """Return float32 observations: `positions` and, with `observe_task`, `goals`."""
        seen = np.concatenate([positions, goals], axis=-1) if self.observe_task else positions
        return seen.astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode on the current `task`.

        Args:
            seed: Seed for the starting position. If None, the random number
                generator continues from its current state.
            options: Ignored.

        Returns:
            The first observation, and an empty info dictionary.
        """
        super().reset(seed=seed, options=options)
        self._goal, self._position = self.task_values(self.task), self.start(self.np_random)
        return self.observe(self._position, self._goal), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance the point by one time step.

        Args:
            action: Velocity along x and y, of shape (2,); clipped to [−1, 1].

        Returns:
            Observation, reward, termination, truncation (always False) and the info dictionary.
        """
        self._position, reward, done = self.move(self._position, action, self._goal)
        return self.observe(self._position, self._goal), float(reward), bool(done), False, {}

    def render(self) -> Array:
        """Return an RGB image of the plane, with the y axis pointing up.

        The goal is red, the point is blue, and landmarks are gray.

        Returns:
            An array of shape (240, 240, 3) and type uint8.
        """
        image = np.full((SIZE, SIZE, 3), 255, np.uint8)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        places = [(place, GRAY) for place in self.landmarks]
        for point, color in (*places, (self._goal, RED), (self._position, BLUE)):
            x, y = (point * [1, -1] / (2 * self.half_width) + 0.5) * SIZE
            image[(columns - x) ** 2 + (rows - y) ** 2 < RADIUS**2] = color
        return image


class BatchedPointEnv(BatchedTaskEnv):
    """A vectorized :class:`PointEnv`, which moves all points at once."""

    def __init__(
        self, scalar: type[PointEnv], num_envs: int = 1, *, max_episode_steps: int, **kwargs: Any
    ) -> None:
        """Create the vectorized environment with one sampled task per sub-environment.

        Args:
            scalar: Class of the scalar environment.
            num_envs: Number of sub-environments, each of which runs one episode at a time.
            max_episode_steps: Number of time steps after which episodes are truncated.
            kwargs: Keyword arguments for `scalar`, except for `horizon`, which
                is set to `max_episode_steps`.
        """
        kwargs["horizon"] = max_episode_steps
        super().__init__(scalar, num_envs, max_episode_steps=max_episode_steps, **kwargs)

    def reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start one episode per sub-environment; return the observations."""
        self._goals = np.array([task["goal"] for task in tasks], dtype=np.float64)
        self._positions = np.zeros((self.num_envs, 2))
        if self.formulas.start_range:
            rngs = map(np.random.default_rng, seeds)
            self._positions = np.stack([self.formulas.start(rng) for rng in rngs])
        return np.asarray(self.formulas.observe(self._positions, self._goals))

    def step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Advance the sub-environments by one time step."""
        step = self.formulas.move(self._positions, actions, self._goals)
        self._positions, rewards, done = step
        return self.formulas.observe(self._positions, self._goals), rewards, done, {}
