"""A Bernoulli bandit: arms that pay with odds one cannot see."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, Choice, TaskDescription, brief, task_array


HORIZON = 10


def pay(means: Any, uniforms: Any) -> Array:
    """Pay 1 where a draw from U(0, 1) is below the mean of the arm, else 0; any shape."""
    return np.asarray(uniforms < means, dtype=np.float64)


def optimal_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what pulling the best arm all the time earns on average."""
    return horizon * float(np.max(task["means"]))


def uniform_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what pulling arms at random earns on average: chance."""
    return horizon * float(np.mean(task["means"]))


class Bandit(gymnasium.Env[Array, Choice]):
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
        self.observe_task = observe_task
        size = 1 + num_arms * observe_task
        self.observation_space: spaces.Box = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Discrete(num_arms)
        self.task = self.sample_tasks(1, np.random.default_rng(0))[0]
        self._means = self.task_values(self.task)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw means from U(0, 1)."""
        means = rng.uniform(size=(num_tasks, self.num_arms))
        return [{"means": row} for row in means.tolist()]

    def task_values(self, task: TaskDescription) -> Array:
        """Return the means (arm,).

        Raises:
            ValueError: If there is not one mean between 0 and 1 for every arm.
        """
        means = task_array(task, "means", (self.num_arms,))
        if means.min() < 0 or means.max() > 1:
            raise ValueError(f"the means of a task are between 0 and 1, got {brief(task)}")
        return means

    def observe(self, means: Array) -> Array:
        """Return the observation of tasks with these means (..., arm)."""
        shown = means if self.observe_task else means[..., :0]
        constant = np.ones((*means.shape[:-1], 1))
        return np.concatenate([constant, shown], axis=-1).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode; the current `task` takes effect."""
        super().reset(seed=seed, options=options)
        self._means = self.task_values(self.task)
        return self.observe(self._means), {}

    def step(self, action: Choice) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Pull an arm."""
        reward = pay(self._means[action], self.np_random.random())
        return self.observe(self._means), float(reward), False, False, {}


class BatchedBandit(BatchedTaskEnv):
    """:class:`Bandit` for many episodes at once, in numpy arrays; the same draws."""

    def __init__(
        self, num_envs: int = 1, *, max_episode_steps: int = HORIZON, **kwargs: Any
    ) -> None:
        """Make `num_envs` rows; `kwargs` are those of :class:`Bandit`."""
        self.single = Bandit(**kwargs)  # never stepped: it lends its spaces and its formulas
        observations, actions = self.single.observation_space, self.single.action_space
        super().__init__(num_envs, observations, actions, max_episode_steps=max_episode_steps)
        self._rows = np.arange(num_envs)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw means from U(0, 1)."""
        return self.single.sample_tasks(num_tasks, rng)

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        for task in {id(task): task for task in tasks}.values():
            self.single.task_values(task)

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        self._means = np.array([task["means"] for task in tasks], dtype=np.float64)
        # A whole episode at once: the same numbers as a scalar face draws one by one.
        draws = [np.random.default_rng(seed).random(self.max_episode_steps) for seed in seeds]
        self._uniforms = np.array(draws).T
        return self.single.observe(self._means)

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        time = min(self._elapsed, self.max_episode_steps - 1)  # later, every row has ended
        rewards = pay(self._means[self._rows, actions], self._uniforms[time])
        return self.single.observe(self._means), rewards, np.zeros(self.num_envs, dtype=bool), {}
