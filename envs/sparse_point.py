"""A point that is paid on its way to one of four corners, and near the start not at all."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription, brief, task_array
from metarl.envs.plane import BLUE, GRAY, RED, draw_plane


HORIZON = 100
MAX_STEP = 0.2
START_RANGE = 0.2
CORNER = 2.0
SILENT_RADIUS = 0.5
CORNERS = CORNER * np.array([(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)])


def move(positions: Array, actions: Array, goals: Array) -> tuple[Array, Any]:
    """Advance points by one time step: the dynamics of both faces.

    Args:
        positions: Shape (..., 2).
        actions: Policy actions; [−1, 1] is mapped to ±0.2 and anything beyond is clipped.
        goals: Shape (..., 2).

    Returns:
        New positions, and rewards (...): 0 where ‖position‖₁ < 0.5 or another corner is nearer
        than the goal, else how much nearer the step came to the goal.
    """
    moved = positions + MAX_STEP * np.minimum(np.maximum(actions, -1.0), 1.0)
    gained = _distance(positions, goals) - _distance(moved, goals)
    outside = np.abs(moved).sum(axis=-1) >= SILENT_RADIUS
    nearest = (moved * goals >= 0).all(axis=-1)  # the goal is the corner of the point's quadrant
    return moved, np.where(outside & nearest, gained, 0.0)


def _distance(positions: Array, goals: Array) -> Any:
    return np.sqrt(((positions - goals) ** 2).sum(axis=-1))


def start(rng: np.random.Generator) -> Array:
    """Draw where an episode begins."""
    return rng.uniform(-START_RANGE, START_RANGE, 2)


def task_goal(task: TaskDescription) -> Array:
    """Return the goal (2,).

    Raises:
        ValueError: If it is none of the four corners.
    """
    goal = task_array(task, "goal", (2,))
    if not (np.abs(goal) == CORNER).all():
        raise ValueError(f"the goal of a task is a corner (±2, ±2), got {brief(task)}")
    return goal


def draw_corners(num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
    """Draw corners with equal odds."""
    return [{"goal": CORNERS[index].tolist()} for index in rng.integers(4, size=num_tasks)]


def _observation_space(observe_task: bool, horizon: int = HORIZON) -> spaces.Box:
    bounds = [START_RANGE + MAX_STEP * horizon] * 2 + ([CORNER] * 2 if observe_task else [])
    high = np.array(bounds, np.float32)
    return spaces.Box(-high, high, dtype=np.float32)


def _observe(positions: Array, goals: Array, observe_task: bool) -> Array:
    seen = np.concatenate([positions, goals], axis=-1) if observe_task else positions
    return seen.astype(np.float32)


class SparsePoint(gymnasium.Env[Array, Array]):
    """A point looks for the one of four corners that it is paid to approach.

    ## Description
    A task in which a policy must explore before it can adapt. The point starts in U(−0.2, 0.2)².
    Rewards tell nothing before it has left the middle, and nothing in the quadrants of the three
    other corners: whoever never walks towards the goal sees the same zeros whatever the task is.

    ## Action space
    `Box(-1, 1, (2,))`: the velocity; ±1 moves ±0.2 a step, and larger actions are clipped.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0, 1 | position (x, y); 100 steps of 0.2 reach no further | -20.2 | 20.2 |
    | 2, 3 | goal (x, y), with `observe_task=True` only | -2 | 2 |

    ## Rewards
    With p the position after the step: 0 while ‖p‖₁ < 0.5; then ‖p_before − goal‖₂ − ‖p − goal‖₂ if
    no other corner is nearer to p than the goal, else 0. Walking straight to the goal earns about
    2.6. It is not the most that one can earn, here as in ProMP's code: steps out of the goal's
    quadrant cost nothing, so going back and forth across its border is paid at every return, up
    to 0.2 for two steps.

    ## Tasks
    `{"goal": [x, y]}`: one of (±2, ±2), with equal odds.

    ## Episode end
    Never terminates; truncated after 100 steps.

    ## Arguments
    `observe_task`: append the goal to the observation. `render_mode`: `"rgb_array"`.

    ## Version history
    v0: `MetaPointEnvCorner` of ProMP (Rothfuss et al. 2018, arXiv:1810.06784), with its sparse
    rewards; the range of actions is [−1, 1].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's name)

    def __init__(self, *, observe_task: bool = False, render_mode: str | None = None) -> None:
        """Start with the goal (2, 2); set `task` to choose another."""
        self.observe_task = observe_task
        self.render_mode = render_mode
        self.observation_space = _observation_space(observe_task)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.task: TaskDescription = {"goal": [CORNER, CORNER]}
        self._goal, self._position = np.full(2, CORNER), np.zeros(2)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw corners with equal odds."""
        return draw_corners(num_tasks, rng)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Put the point near the origin; the current `task` takes effect."""
        super().reset(seed=seed, options=options)
        self._goal, self._position = task_goal(self.task), start(self.np_random)
        return _observe(self._position, self._goal, self.observe_task), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move the point."""
        self._position, reward = move(self._position, action, self._goal)
        seen = _observe(self._position, self._goal, self.observe_task)
        return seen, float(reward), False, False, {}

    def render(self) -> Array:
        """Draw the plane [−2.4, 2.4]²: the goal red, the point blue, the other corners gray."""
        corners = [(corner, GRAY) for corner in CORNERS]
        points = [*corners, (self._goal, RED), (self._position, BLUE)]
        return draw_plane(points, half_width=1.2 * CORNER)


class BatchedSparsePoint(BatchedTaskEnv):
    """:class:`SparsePoint` for many episodes at once, in numpy arrays; the same dynamics."""

    def __init__(
        self, num_envs: int = 1, *, max_episode_steps: int = HORIZON, observe_task: bool = False
    ) -> None:
        """Make `num_envs` rows; see :class:`SparsePoint` for `observe_task`."""
        self.observe_task = observe_task
        action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        space = _observation_space(observe_task, max_episode_steps)
        super().__init__(num_envs, space, action_space, max_episode_steps=max_episode_steps)
        self._goals = self._positions = np.zeros((num_envs, 2))

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw corners with equal odds."""
        return draw_corners(num_tasks, rng)

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        for task in {id(task): task for task in tasks}.values():
            task_goal(task)

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        self._goals = np.array([task["goal"] for task in tasks], dtype=np.float64)
        self._positions = np.stack([start(np.random.default_rng(seed)) for seed in seeds])
        return _observe(self._positions, self._goals, self.observe_task)

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        self._positions, rewards = move(self._positions, actions, self._goals)
        seen = _observe(self._positions, self._goals, self.observe_task)
        return seen, rewards, np.zeros(self.num_envs, dtype=bool), {}
