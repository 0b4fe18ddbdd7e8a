"""A point environment with sparse rewards, in which the goal is one of four corners."""

from typing import Any

import numpy as np

from metarl.envs.base import Array, TaskDescription, brief
from metarl.envs.point import PointEnv


CORNER = 2.0
ZERO_REWARD_RADIUS = 0.5
CORNERS = CORNER * np.array([(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)])


class SparsePoint(PointEnv):
    """A point that must find which of four corners is rewarded.

    ## Description
    A policy must explore before adaptation is possible. The starting
    position is drawn from U(−0.2, 0.2)². Rewards are 0 in the middle and in the quadrants of the
    other three corners, so an episode that never enters the quadrant of the
    goal contains no information about the task, except that the goal is in a
    different quadrant.

    ## Action space
    `Box(-1, 1, (2,))`: velocity along x and y. An action of ±1 moves the
    point by ±0.2 per step; larger actions are clipped.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0, 1 | position (x, y), bounded by 100 steps of 0.2 | -20.2 | 20.2 |
    | 2, 3 | goal (x, y), only with `observe_task=True` | -2 | 2 |

    ## Rewards
    ‖p_before − goal‖₂ − ‖p − goal‖₂ if ‖p‖₁ ≥ 0.5 and no other corner is
    nearer to p than the goal, otherwise 0, where p_before and p are the
    positions before and after the step. Moving straight to the goal earns
    about 2.6. As in ProMP's code, 2.6 is not the maximum return: steps that
    leave the quadrant of the goal have no negative reward, so a policy that
    repeatedly crosses the border of the quadrant earns up to 0.2 per two
    steps.

    ## Tasks
    `{"goal": [x, y]}`: one of the four corners (±2, ±2), with equal probability.

    ## Episode end
    Never terminates; truncated after 100 steps.

    ## Arguments
    `observe_task`: append the goal to the observation. `render_mode`: `"rgb_array"`.

    ## Version history
    v0: `MetaPointEnvCorner` of ProMP (Rothfuss et al. 2018, arXiv:1810.06784)
    with sparse rewards, but with actions in [−1, 1].
    """

    max_step = 0.2
    goal_range = CORNER
    start_range = 0.2
    landmarks = CORNERS
    half_width = 1.2 * CORNER

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks, each with one of the four corners as the goal."""
        return [{"goal": CORNERS[index].tolist()} for index in rng.integers(4, size=num_tasks)]

    def task_values(self, task: TaskDescription) -> Array:
        """Validate a task and return the goal, of shape (2,).

        Raises:
            ValueError: If the goal is not one of the four corners.
        """
        goal = super().task_values(task)
        if not (np.abs(goal) == CORNER).all():
            raise ValueError(f"the goal of a task must be a corner (±2, ±2), got {brief(task)}")
        return goal

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Move the points, and compute the progress towards the goal as the reward.

        The reward is 0 where ‖position‖₁ < 0.5 or a different corner is
        nearer than the goal. Episodes never terminate. See
        :meth:`PointEnv.move <metarl.envs.point.PointEnv.move>` for arguments
        and results.
        """
        after = self.next_positions(positions, actions)
        progress = _distance(positions, goals) - _distance(after, goals)
        outside = np.abs(after).sum(axis=-1) >= ZERO_REWARD_RADIUS
        nearest = (after * goals >= 0).all(axis=-1)  # the goal is the corner of its quadrant
        rewards = np.where(outside & nearest, progress, 0.0)
        return after, rewards, np.zeros(outside.shape, dtype=bool)


def _distance(positions: Array, goals: Array) -> Any:
    return np.sqrt(((positions - goals) ** 2).sum(axis=-1))
