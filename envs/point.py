"""What the environments of a point on a plane have in common, scalar and batched."""

from collections.abc import Iterable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription, task_array


HORIZON = 100

GRAY, RED, BLUE = (200, 200, 200), (214, 39, 40), (31, 119, 180)
SIZE = 240  # pixels of a picture
RADIUS = 6  # of a point in it


class PointEnv(gymnasium.Env[Array, Array]):
    """Base of the scalar environments, whose formulas work on one point and on many alike.

    Class attributes:
        max_step: How far an action of 1 moves the point along an axis.
        goal_range: No coordinate of a goal is larger.
        start_range: No coordinate of a start is larger.
        landmarks: Places that pictures show in gray.
        half_width: Of the plane in pictures.
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
        """Start with the goal in the upper right; set `task` to choose another.

        Args:
            observe_task: Append the goal to the observation.
            render_mode: ``"rgb_array"`` or ``None``.
            horizon: Time steps of an episode, which bound how far a point gets.
        """
        self.observe_task, self.render_mode = observe_task, render_mode
        bounds = [self.start_range + self.max_step * horizon] * 2
        high = np.array(bounds + [self.goal_range] * 2 * observe_task, np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.task: TaskDescription = {"goal": [self.goal_range, self.goal_range]}
        self._goal, self._position = np.full(2, self.goal_range), np.zeros(2)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw goals."""
        raise NotImplementedError

    def task_values(self, task: TaskDescription) -> Array:
        """Return the goal (2,) of a task; refuse what is none."""
        return task_array(task, "goal", (2,))

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Advance points by one time step.

        Args:
            positions: Shape (..., 2).
            actions: Policy actions; anything beyond [−1, 1] is clipped.
            goals: Shape (..., 2).

        Returns:
            New positions, rewards (...), and whether the episode ends here (...).
        """
        raise NotImplementedError

    def next_positions(self, positions: Array, actions: Array) -> Array:
        """Return where actions take points."""
        # minimum/maximum cost a third of np.clip on arrays of this size.
        return np.asarray(positions + self.max_step * np.minimum(np.maximum(actions, -1.0), 1.0))

    def start(self, rng: np.random.Generator) -> Array:
        """Draw where an episode begins."""
        return rng.uniform(-self.start_range, self.start_range, 2)

    def observe(self, positions: Array, goals: Array) -> Array:
        """Return what a policy sees."""
        seen = np.concatenate([positions, goals], axis=-1) if self.observe_task else positions
        return seen.astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Put the point where episodes start; the current `task` takes effect."""
        super().reset(seed=seed, options=options)
        self._goal, self._position = self.task_values(self.task), self.start(self.np_random)
        return self.observe(self._position, self._goal), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move the point."""
        self._position, reward, done = self.move(self._position, action, self._goal)
        return self.observe(self._position, self._goal), float(reward), bool(done), False, {}

    def render(self) -> Array:
        """Draw the plane: the goal red, the point blue, other places of note gray."""
        places = [(place, GRAY) for place in self.landmarks]
        points = [*places, (self._goal, RED), (self._position, BLUE)]
        return draw_plane(points, half_width=self.half_width)


def draw_plane(points: Iterable[tuple[Array, tuple[int, int, int]]], *, half_width: float) -> Array:
    """Draw the plane [−half_width, half_width]², x to the right and y up.

    Args:
        points: Pairs of a place (x, y) and its color; later ones lie on top.
        half_width: Places beyond it are not seen.

    Returns:
        An image (240, 240, 3) of bytes.
    """
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for point, color in points:
        x, y = (point * [1, -1] / (2 * half_width) + 0.5) * SIZE
        image[(columns - x) ** 2 + (rows - y) ** 2 < RADIUS**2] = color
    return image


class BatchedPointEnv(BatchedTaskEnv):
    """Many episodes of a :class:`PointEnv` at once, in numpy arrays."""

    def __init__(
        self, scalar: type[PointEnv], num_envs: int = 1, *, max_episode_steps: int, **kwargs: Any
    ) -> None:
        """Make `num_envs` rows; `kwargs` are those of the scalar class."""
        kwargs["horizon"] = max_episode_steps
        super().__init__(scalar, num_envs, max_episode_steps=max_episode_steps, **kwargs)

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        self._goals = np.array([task["goal"] for task in tasks], dtype=np.float64)
        self._positions = np.zeros((self.num_envs, 2))
        if self.formulas.start_range:
            rngs = map(np.random.default_rng, seeds)
            self._positions = np.stack([self.formulas.start(rng) for rng in rngs])
        return np.asarray(self.formulas.observe(self._positions, self._goals))

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        step = self.formulas.move(self._positions, actions, self._goals)
        self._positions, rewards, done = step
        return self.formulas.observe(self._positions, self._goals), rewards, done, {}
