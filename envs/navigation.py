"""A 2D navigation environment, in which a point moves to a goal that is not observed."""

from typing import Any

import numpy as np

from metarl.envs.base import Array, TaskDescription
from metarl.envs.point import PointEnv


DONE_RANGE = 0.01  # maximum distance to the goal along each axis at which an episode terminates


class Navigation2D(PointEnv):
    """A point that starts at the origin and moves to a goal that is not observed.

    ## Description
    The task distribution of Finn et al. 2017 (section 5.3). The policy only
    observes the position of the point and has to infer the goal from the
    rewards.

    ## Action space
    `Box(-1, 1, (2,))`: velocity along x and y. An action of ±1 moves the
    point by ±0.1 per step; larger actions are clipped.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0, 1 | position (x, y), bounded by 100 steps of 0.1 | -10 | 10 |
    | 2, 3 | goal (x, y), only with `observe_task=True` | -0.5 | 0.5 |

    ## Rewards
    −‖position − goal‖₂ after the step. The text of Finn et al. 2017 squares
    the distance, but the code and the published returns use the distance
    itself.

    ## Tasks
    `{"goal": [x, y]}`, drawn from U(−0.5, 0.5)².

    ## Episode end
    Terminates if |x − gx| < 0.01 and |y − gy| < 0.01 for a goal (gx, gy);
    truncated after 100 steps.

    ## Arguments
    `observe_task`: append the goal to the observation, as for the oracle in
    Finn et al. 2017. `render_mode`: `"rgb_array"`.

    ## Version history
    v0: the environment of Finn et al. 2017.
    """

    max_step = 0.1
    goal_range = 0.5
    half_width = 0.6

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks with goals from U(−0.5, 0.5)²."""
        goals = rng.uniform(-self.goal_range, self.goal_range, size=(num_tasks, 2))
        return [{"goal": goal} for goal in goals.tolist()]

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Move the points, and compute rewards −‖position − goal‖₂ and terminations.

        Episodes terminate if both coordinates are within ±0.01 of the goal.
        See :meth:`PointEnv.move <metarl.envs.point.PointEnv.move>` for
        arguments and results.
        """
        positions = self.next_positions(positions, actions)
        gaps = positions - goals
        squares = gaps * gaps
        rewards = -np.sqrt(squares[..., 0] + squares[..., 1])
        inside = np.abs(gaps) < DONE_RANGE
        return positions, rewards, inside[..., 0] & inside[..., 1]
