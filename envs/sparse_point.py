"""A point that is paid on its way to one of four corners, and near the start not at all."""

from typing import Any

import numpy as np

from metarl.envs.base import Array, TaskDescription, brief
from metarl.envs.point import PointEnv


CORNER = 2.0
ZERO_REWARD_RADIUS = 0.5
CORNERS = CORNER * np.array([(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)])


class SparsePoint(PointEnv):
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
    0 near the start, then the progress towards the nearest corner if it is the goal. With p the
    position after the step: 0 while ‖p‖₁ < 0.5; then ‖p_before − goal‖₂ − ‖p − goal‖₂ if no other
    corner is nearer to p than the goal, else 0. Walking straight to the goal earns about 2.6. It is
    not the most that one can earn, here as in ProMP's code: steps out of the goal's quadrant cost
    nothing, so going back and forth across its border is paid at every return, up to 0.2 for two
    steps.

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

    max_step = 0.2
    goal_range = CORNER
    start_range = 0.2
    landmarks = CORNERS
    half_width = 1.2 * CORNER

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw corners with equal odds."""
        return [{"goal": CORNERS[index].tolist()} for index in rng.integers(4, size=num_tasks)]

    def task_values(self, task: TaskDescription) -> Array:
        """Return the goal (2,).

        Raises:
            ValueError: If it is none of the four corners.
        """
        goal = super().task_values(task)
        if not (np.abs(goal) == CORNER).all():
            raise ValueError(f"the goal of a task is a corner (±2, ±2), got {brief(task)}")
        return goal

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Advance points; episodes never end here.

        Rewards are 0 where ‖position‖₁ < 0.5 or another corner is nearer than the goal, else how
        much nearer the step came to the goal.
        """
        next_positions = self.next_positions(positions, actions)
        gained = _distance(positions, goals) - _distance(next_positions, goals)
        outside = np.abs(next_positions).sum(axis=-1) >= ZERO_REWARD_RADIUS
        nearest = (next_positions * goals >= 0).all(
            axis=-1
        )  # the goal is the corner of its quadrant
        return (
            next_positions,
            np.where(outside & nearest, gained, 0.0),
            np.zeros(outside.shape, dtype=bool),
        )


def _distance(positions: Array, goals: Array) -> Any:
    return np.sqrt(((positions - goals) ** 2).sum(axis=-1))
