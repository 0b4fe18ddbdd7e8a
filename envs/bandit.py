"""A Bernoulli bandit: arms that pay with odds one cannot see."""

from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, TaskDescription, brief, task_array
from metarl.envs.tabular_mdp import HORIZON, Tables, TabularMDP


def optimal_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what pulling the best arm all the time earns on average."""
    return horizon * float(np.max(task["means"]))


def uniform_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what pulling arms at random earns on average: chance."""
    return horizon * float(np.mean(task["means"]))


class Bandit(TabularMDP):
    """Each arm pays 1 or nothing, and only pulling it tells how often.

    ## Description
    The bandits of Duan et al. 2016. There is no state: a policy is a distribution over arms, and
    rewards alone can tell which to prefer. An episode is `horizon` pulls, so between two adaptation
    steps a task is given horizon × episodes_per_task of them. In the peers every pull is an episode
    of its own; `max_episode_steps=1` does the same here.

    ## Action space
    `Discrete(5)`: the arm; as many as `num_arms`.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0 | the constant 1 | 0 | 1 |
    | 1-5 | means of the arms, with `observe_task=True` only | 0 | 1 |

    The peers show a constant 0: all that a ReLU network with zero biases then has to learn with is
    the bias of its last layer, for every other gradient is exactly zero.

    ## Rewards
    1 with the probability of the arm's mean, else 0.

    ## Tasks
    `{"means": [p_1, ..., p_5]}`, each drawn from U(0, 1). :func:`optimal_return` and
    :func:`uniform_return` tell what knowing them and what chance is worth.

    ## Episode end
    Never terminates; truncated after 10 steps.

    ## Arguments
    `num_arms`: the number of arms; usual are 5, 10 and 50. `observe_task`: append the means to the
    observation.

    ## Version history
    v0: the bandits of RL² (Duan et al. 2016, arXiv:1611.02779), with an observation that is not 0.
    """

    def __init__(self, *, num_arms: int = 5, observe_task: bool = False) -> None:
        """Start with some task of the distribution; set `task` to choose another."""
        if num_arms < 1:
            raise ValueError(f"a bandit has at least one arm, got num_arms={num_arms}")
        self.num_arms = num_arms
        super().__init__(num_states=1, num_actions=num_arms, observe_task=observe_task)

    def space(self) -> spaces.Box:
        """Return the space of observations."""
        return spaces.Box(0.0, 1.0, (1 + self.num_arms * self.observe_task,), np.float32)

    def draw_task(self, rng: np.random.Generator) -> TaskDescription:
        """Draw means from U(0, 1)."""
        return {"means": rng.uniform(size=self.num_arms).tolist()}

    def task_values(self, task: TaskDescription) -> Tables:
        """Read a task; its one state follows itself.

        Raises:
            ValueError: If there is not one mean between 0 and 1 for every arm.
        """
        means = task_array(task, "means", (self.num_arms,))
        if means.min() < 0 or means.max() > 1:
            raise ValueError(f"the means of a task are between 0 and 1, got {brief(task)}")
        return Tables(np.ones((1, self.num_arms, 1)), means[None], means)

    def draw_noise(self, rng: np.random.Generator, steps: int) -> Array:
        """Draw from U(0, 1) (step, 1)."""
        return rng.random((steps, 1))

    def sample_rewards(self, means: Any, noise: Array) -> Any:
        """Pay 1 where the draw is below the mean of the arm, else 0."""
        return np.asarray(noise[0] < means, dtype=np.float64)
