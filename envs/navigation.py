"""2D navigation: a point that moves to a goal it cannot see."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription, task_array
from metarl.envs.plane import BLUE, GRAY, RED, draw_plane


HORIZON = 100
MAX_STEP = 0.1
GOAL_RANGE = 0.5
DONE_RANGE = 0.01

Points = NDArray[np.float64]


def move(positions: Points, actions: Array, goals: Points) -> tuple[Points, Any, Any]:
    """Advance points by one time step: the dynamics of both faces.

    Args:
        positions: Shape (..., 2).
        actions: Policy actions; [−1, 1] is mapped to ±0.1 and anything beyond is clipped.
        goals: Shape (..., 2).

    Returns:
        New positions, rewards −‖position − goal‖ (...), and whether the point is inside the box
        of ±0.01 around its goal (...).
    """
    # minimum/maximum cost a third of np.clip on arrays of this size.
    positions = positions + MAX_STEP * np.minimum(np.maximum(actions, -1.0), 1.0)
    gaps = positions - goals
    squares = gaps * gaps
    rewards = -np.sqrt(squares[..., 0] + squares[..., 1])
    inside = np.abs(gaps) < DONE_RANGE
    return positions, rewards, inside[..., 0] & inside[..., 1]


def draw_goals(num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
    """Draw goals from U(−0.5, 0.5)²."""
    goals = rng.uniform(-GOAL_RANGE, GOAL_RANGE, size=(num_tasks, 2))
    return [{"goal": goal} for goal in goals.tolist()]


def _observation_space(observe_task: bool, horizon: int = HORIZON) -> spaces.Box:
    bounds = [MAX_STEP * horizon] * 2 + ([GOAL_RANGE] * 2 if observe_task else [])
    high = np.array(bounds, np.float32)
    return spaces.Box(-high, high, dtype=np.float32)


def _observe(positions: Points, goals: Points, observe_task: bool) -> Array:
    seen = np.concatenate([positions, goals], axis=-1) if observe_task else positions
    return seen.astype(np.float32)


class Navigation2D(gymnasium.Env[Array, Array]):
    """A point starts at the origin and moves towards a goal that its observation does not show.

    ## Description
    The task distribution of Finn et al. 2017 (section 5.3). The policy sees only where it is; which
    goal it should go to it can learn from rewards alone, by adapting.

    ## Action space
    `Box(-1, 1, (2,))`: the velocity; ±1 moves ±0.1 a step, and larger actions are clipped.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0, 1 | position (x, y); 100 steps of 0.1 reach no further | -10 | 10 |
    | 2, 3 | goal (x, y), with `observe_task=True` only | -0.5 | 0.5 |

    ## Rewards
    −‖position − goal‖₂ after the move. (The paper's text says squared; its code, and its published
    returns, are not.)

    ## Tasks
    `{"goal": [x, y]}`, drawn from U(−0.5, 0.5)².

    ## Episode end
    Terminates inside the box |x − gx| < 0.01, |y − gy| < 0.01; truncated after 100 steps.

    ## Arguments
    `observe_task`: append the goal to the observation (the oracle of the paper). `render_mode`:
    `"rgb_array"`.

    ## Version history
    v0: the environment of Finn et al. 2017.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's name)

    def __init__(self, *, observe_task: bool = False, render_mode: str | None = None) -> None:
        """Start with the goal (0.5, 0.5); set `task` to choose another."""
        self.observe_task = observe_task
        self.render_mode = render_mode
        self.observation_space = _observation_space(observe_task)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.task: TaskDescription = {"goal": [GOAL_RANGE, GOAL_RANGE]}
        self._goal = np.full(2, GOAL_RANGE)
        self._position = np.zeros(2)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw goals from U(−0.5, 0.5)²."""
        return draw_goals(num_tasks, rng)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Put the point at the origin; the current `task` takes effect."""
        super().reset(seed=seed, options=options)
        self._goal = task_array(self.task, "goal", (2,))
        self._position = np.zeros(2)
        return _observe(self._position, self._goal, self.observe_task), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move the point."""
        self._position, reward, done = move(self._position, action, self._goal)
        seen = _observe(self._position, self._goal, self.observe_task)
        return seen, float(reward), bool(done), False, {}

    def render(self) -> NDArray[np.uint8]:
        """Draw the plane [−0.6, 0.6]²: the goal red, the point blue, the origin gray."""
        points = ((np.zeros(2), GRAY), (self._goal, RED), (self._position, BLUE))
        return draw_plane(points, half_width=0.6)


class BatchedNavigation2D(BatchedTaskEnv):
    """:class:`Navigation2D` for many episodes at once, in numpy arrays; the same dynamics."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int = HORIZON,
        observe_task: bool = False,
    ) -> None:
        """Make `num_envs` rows; see :class:`Navigation2D` for `observe_task`."""
        self.observe_task = observe_task
        action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        space = _observation_space(observe_task, max_episode_steps)
        super().__init__(num_envs, space, action_space, max_episode_steps=max_episode_steps)
        self._goals = self._positions = np.zeros((num_envs, 2))

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw goals from U(−0.5, 0.5)²."""
        return draw_goals(num_tasks, rng)

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        for task in {id(task): task for task in tasks}.values():
            task_array(task, "goal", (2,))

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        del seeds  # nothing in this environment is random
        self._goals = np.array([task["goal"] for task in tasks], dtype=np.float64)
        self._positions = np.zeros((self.num_envs, 2))
        return _observe(self._positions, self._goals, self.observe_task)

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        self._positions, rewards, inside = move(self._positions, actions, self._goals)
        return _observe(self._positions, self._goals, self.observe_task), rewards, inside, {}
