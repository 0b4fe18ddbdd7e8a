"""2D navigation: a point that moves to a goal it cannot see."""

from typing import Any

import numpy as np

from metarl.envs.base import Array, TaskDescription
from metarl.envs.point import PointEnv


DONE_RANGE = 0.01


class Navigation2D(PointEnv):
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

    max_step = 0.1
    goal_range = 0.5
    half_width = 0.6

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw goals from U(−0.5, 0.5)²."""
        goals = rng.uniform(-self.goal_range, self.goal_range, size=(num_tasks, 2))
        return [{"goal": goal} for goal in goals.tolist()]

    def move(self, positions: Array, actions: Array, goals: Array) -> tuple[Array, Any, Any]:
        """Advance points; rewards are −‖position − goal‖, a box of ±0.01 at the goal is the end."""
        positions = self.next_positions(positions, actions)
        gaps = positions - goals
        squares = gaps * gaps
        rewards = -np.sqrt(squares[..., 0] + squares[..., 1])
        inside = np.abs(gaps) < DONE_RANGE
        return positions, rewards, inside[..., 0] & inside[..., 1]
