"""A multi-armed bandit with Bernoulli rewards."""

from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, TaskDescription, brief, task_array
from metarl.envs.tabular_mdp import HORIZON, Tables, TabularMDP


def optimal_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Compute the expected return of the optimal policy, which always pulls the best arm.

    Args:
        task: Task of :class:`Bandit` with the mean reward of each arm, ``{"means": [...]}``.
        horizon: Number of pulls per episode.

    Returns:
        The expected sum of the rewards in an episode.

    Example::

        >>> from metarl.envs.bandit import optimal_return
        >>> optimal_return({"means": [0.2, 0.9]}, horizon=10)
        9.0
    """
    return horizon * float(np.max(task["means"]))


def uniform_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Compute the expected return of a policy that selects every arm with equal probability.

    Args:
        task: Task of :class:`Bandit` with the mean reward of each arm, ``{"means": [...]}``.
        horizon: Number of pulls per episode.

    Returns:
        The expected sum of the rewards in an episode.

    Example::

        >>> from metarl.envs.bandit import uniform_return
        >>> uniform_return({"means": [0.25, 0.75]}, horizon=10)
        5.0
    """
    return horizon * float(np.mean(task["means"]))


class Bandit(TabularMDP):
    """A multi-armed bandit in which each arm pays 1 with an unknown probability.

    ## Description
    The bandits of Duan et al. 2016. There is no state: a policy is a
    distribution over arms and can only find the best arm from the rewards. An
    episode consists of 10 pulls, so an adaptation step on 20 episodes of a
    task uses 200 pulls. Other implementations use one episode per pull, which
    corresponds to `max_episode_steps=1`.

    ## Action space
    `Discrete(5)`: index of the arm to pull. `num_arms` sets the number of arms.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0 | the constant 1 | 0 | 1 |
    | 1-5 | means of the arms, only with `observe_task=True` | 0 | 1 |

    Other implementations observe the constant 0. In a ReLU network with zero
    biases, all gradients are then exactly zero, except for the gradient of
    the last layer's bias.

    ## Rewards
    1 with a probability equal to the mean of the arm, otherwise 0.

    ## Tasks
    `{"means": [p_1, ..., p_5]}` with independent means from U(0, 1).
    :func:`optimal_return` and :func:`uniform_return` compute the expected
    returns of the optimal and the uniform policy.

    ## Episode end
    Never terminates; truncated after 10 steps.

    ## Arguments
    `num_arms`: number of arms, usually 5, 10 or 50 (default: 5).
    `observe_task`: append the means of the arms to the observation.

    ## Version history
    v0: the bandits of RL² (Duan et al. 2016, arXiv:1611.02779), with 1 as the observation.
    """

    def __init__(self, *, num_arms: int = 5, observe_task: bool = False) -> None:
        """Create the environment with a sampled task.

        Args:
            num_arms: Number of arms, at least 1.
            observe_task: Whether to append the means of the arms to the observation.
        """
        self.num_arms = num_arms
        super().__init__(num_states=1, num_actions=num_arms, observe_task=observe_task)

    def space(self) -> spaces.Box:
        """Return the observation space, of shape (1,) or, with `observe_task`, (1 + num_arms,)."""
        return spaces.Box(0.0, 1.0, (1 + self.num_arms * self.observe_task,), np.float32)

    def draw_task(self, rng: np.random.Generator) -> TaskDescription:
        """Sample a task ``{"means": [...]}`` with one mean per arm from U(0, 1)."""
        return {"means": rng.uniform(size=self.num_arms).tolist()}

    def task_values(self, task: TaskDescription) -> Tables:
        """Validate a task and convert the description to the arrays of an MDP with one state.

        Args:
            task: Task description of the form ``{"means": [...]}``.

        Raises:
            ValueError: If the task does not contain one mean between 0 and 1 per arm.
        """
        means = task_array(task, "means", (self.num_arms,))
        if means.min() < 0 or means.max() > 1:
            raise ValueError(f"the means of a task must be between 0 and 1, got {brief(task)}")
        return Tables(np.ones((1, self.num_arms, 1)), means[None], means)

    def draw_noise(self, rng: np.random.Generator, steps: int) -> Array:
        """Sample an array of shape (steps, 1) from U(0, 1), with one number per step."""
        return rng.random((steps, 1))

    def sample_rewards(self, means: Any, noise: Array) -> Any:
        """Return Bernoulli rewards: 1 where the noise is below the mean of the pulled arm, else 0.

        Args:
            means: Means of the pulled arms, of shape (...).
            noise: Noise for one step, of shape (1, ...).

        Returns:
            Rewards of shape (...).
        """
        return np.asarray(noise[0] < means, dtype=np.float64)
