"""2D navigation: a point moves to a goal that it does not observe."""

from typing import Any

import numpy as np

from metarl.envs.base import Array, TaskDescription
from metarl.envs.point import PointEnv


DONE_RANGE = 0.01  # maximum distance to the goal along each axis at which an episode terminates


class Navigation2D(PointEnv):
    """A point that starts at the origin and moves to a goal that is not part of the observation.

    ## Description
    The task distribution of Finn et al. 2017 (section 5.3). The policy observes only its position,
    so it has to find the goal from the rewards.

    ## Action space
    `Box(-1, 1, (2,))`: the velocity. An action of ±1 moves the point by ±0.1 per step; larger
    actions are clipped.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0, 1 | position (x, y), bounded by 100 steps of 0.1 | -10 | 10 |
    | 2, 3 | goal (x, y), only with `observe_task=True` | -0.5 | 0.5 |

    ## Rewards
    −‖position − goal‖₂ after the move. (The text of the paper squares the distance, but its code
    and published returns do not.)

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

    max_step = 0.1
    goal_range = 0.5
    half_width = 0.6

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample goals from U(−0.5, 0.5)²."""
        goals = rng.uniform(-self.goal_range, self.goal_range, size=(num_tasks, 2))
        return [{"goal": goal} for goal in goals.tolist()]

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Move the points and return −‖position − goal‖ as the reward.

        Episodes terminate inside a box of ±0.01 around the goal.
        """
        positions = self.next_positions(positions, actions)
        gaps = positions - goals
        squares = gaps * gaps
        rewards = -np.sqrt(squares[..., 0] + squares[..., 1])
        inside = np.abs(gaps) < DONE_RANGE
        return positions, rewards, inside[..., 0] & inside[..., 1]
