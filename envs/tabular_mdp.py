"""Random tabular Markov decision processes (MDPs), with known optimal returns.

The scalar environment applies the dynamics to one state. The vectorized
environment applies the same dynamics to the states of all sub-environments,
so that both return identical numbers. Bandits (:mod:`metarl.envs.bandit`) are MDPs with
one state and different task and reward distributions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, TaskDescription, distinct, task_arrays


HORIZON = 10
BLOCK = 10  # number of steps whose noise is sampled together
TOLERANCE = 1e-6  # maximum deviation from 1 of the sum of transition probabilities


def optimal_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Compute the expected return of the optimal policy, which may depend on the time step.

    Args:
        task: Task of :class:`TabularMDP`, ``{"transitions": [...], "rewards": [...]}``.
        horizon: Number of time steps per episode.

    Returns:
        The expected sum of the rewards in an episode.
    """
    return _value(task, horizon, lambda values: values.max(axis=1))


def uniform_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Compute the expected return of a policy that takes all actions with equal probability.

    Args:
        task: Task of :class:`TabularMDP`, ``{"transitions": [...], "rewards": [...]}``.
        horizon: Number of time steps per episode.

    Returns:
        The expected sum of the rewards in an episode.
    """
    return _value(task, horizon, lambda values: values.mean(axis=1))


def _value(task: TaskDescription, horizon: int, choose: Callable[[Array], Array]) -> float:
    """Compute the expected return over `horizon` steps from state 0 by dynamic programming.

    With h steps left, Q_h(s, a) = r(s, a) + Σ_s' P(s, a, s') V_{h−1}(s') and V_h = choose(Q_h).
    """
    transitions, rewards = np.asarray(task["transitions"]), np.asarray(task["rewards"])
    values = np.zeros(len(rewards))
    for _ in range(horizon):
        values = choose(rewards + transitions @ values)
    return float(values[0])


class Tables(NamedTuple):
    """A task of a tabular MDP or a bandit, converted to arrays.

    Attributes:
        cumulative: Cumulative probabilities of next states, of shape (states, actions, states).
        means: Mean rewards, of shape (states, actions).
        features: Values that are appended to observations with `observe_task`, of shape (values,).
    """

    cumulative: Array
    means: Array
    features: Array


class TabularMDP(gymnasium.Env[Array, int | np.integer[Any]]):
    """A tabular MDP with unknown transition probabilities and unknown mean rewards.

    ## Description
    The random MDPs of Duan et al. 2016. A policy has to infer the transition
    probabilities and the mean rewards from experience. Every episode starts
    in state 0.

    ## Action space
    `Discrete(5)`. `num_actions` sets the number of actions.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0-9 | one-hot encoding of the state | 0 | 1 |
    | 10-59 | mean rewards by state and action, only with `observe_task=True` | -inf | inf |
    | 60-559 | probabilities (state, action, next state), only with `observe_task=True` | 0 | 1 |

    ## Rewards
    N(mean reward for the state and the action, 1).

    ## Tasks
    `{"transitions": [10][5][10], "rewards": [10][5]}`, sampled from Dirichlet(1) and N(1, 1).
    For every state and action, a task contains the probabilities of the next
    states and a mean reward.
    :func:`optimal_return` and :func:`uniform_return` compute the expected
    returns of the optimal and the uniform policy.

    ## Episode end
    Never terminates; truncated after 10 steps.

    ## Arguments
    `num_states`: number of states (default: 10). `num_actions`: number of
    actions (default: 5). `observe_task`: append the task to the observation.

    ## Version history
    v0: the tabular MDPs of RL² (Duan et al. 2016, arXiv:1611.02779). The
    horizon of 10 and the reward variance of 1 are taken from pytorch-maml-rl.
    """

    vectorized = "metarl.envs.tabular_mdp:BatchedTabularMDP"

    def __init__(
        self, *, num_states: int = 10, num_actions: int = 5, observe_task: bool = False
    ) -> None:
        """Create the environment with a sampled task.

        Args:
            num_states: Number of states, at least 1.
            num_actions: Number of actions, at least 1.
            observe_task: Whether to append the task to the observation.
        """
        self.size = num_states, num_actions
        self.observe_task = observe_task
        self.observation_space: spaces.Box = self.space()
        self.action_space = spaces.Discrete(num_actions)
        self._one_hot = np.eye(num_states)
        self.task = self.sample_tasks(1, np.random.default_rng(0))[0]
        self._tables, self._state = self.task_values(self.task), 0
        self._noise: list[Array] = []

    def space(self) -> spaces.Box:
        """Return the observation space: one-hot states and, with `observe_task`, the task."""
        num_states, pairs = self.size[0], self.size[0] * self.size[1]
        counts = [num_states, pairs * self.observe_task, pairs * num_states * self.observe_task]
        low, high = np.repeat([[0, -np.inf, 0], [1, np.inf, 1]], counts, axis=1).astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks from the task distribution."""
        return [self.draw_task(rng) for _ in range(num_tasks)]

    def draw_task(self, rng: np.random.Generator) -> TaskDescription:
        """Sample transition probabilities from Dirichlet(1) and mean rewards from N(1, 1)."""
        transitions = rng.dirichlet(np.ones(self.size[0]), self.size).tolist()
        return {"transitions": transitions, "rewards": rng.normal(1.0, 1.0, self.size).tolist()}

    def task_values(self, task: TaskDescription) -> Tables:
        """Validate a task and convert the description to arrays.

        Raises:
            ValueError: If an array has the wrong shape, or the transition
                probabilities of a state and an action are negative or do not
                sum to 1.
        """
        shapes = {"transitions": (*self.size, self.size[0]), "rewards": self.size}
        transitions, rewards = task_arrays(task, shapes)
        totals = transitions.sum(axis=-1)
        wrong = (transitions < 0).any(axis=-1) | (np.abs(totals - 1) > TOLERANCE)
        if wrong.any():
            state, action = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                "the transitions of a task must be probabilities that sum to 1 over next states, "
                f"got {transitions[state, action].tolist()} for state {state}, action {action}"
            )
        # Dividing by the last sum makes it exactly 1, so that every number below 1 selects a state.
        cumulative = transitions.cumsum(axis=-1)
        cumulative /= cumulative[..., -1:]
        return Tables(cumulative, rewards, np.concatenate([rewards.ravel(), transitions.ravel()]))

    def draw_noise(self, rng: np.random.Generator, steps: int) -> Array:
        """Sample random numbers for at least `steps` time steps with `rng`.

        The numbers are sampled in blocks of 10 steps, because sampling every
        step separately is slow.

        Returns:
            An array of shape (sampled steps, 2). The first column is sampled
            from U(0, 1) and selects next states; the second column is sampled
            from N(0, 1) and is added to the mean rewards.
        """
        blocks = range(0, steps, BLOCK)
        pairs = [(rng.random(BLOCK), rng.standard_normal(BLOCK)) for _ in blocks]
        return np.concatenate(pairs, axis=1).T

    def sample_rewards(self, means: Any, noise: Array) -> Any:
        """Return rewards with the distribution N(means, 1): the sum of means and noise.

        Args:
            means: Mean rewards, of shape (...).
            noise: Random numbers for one step, of shape (2, ...).
                ``noise[1]`` has the distribution N(0, 1) and is added to the
                means.

        Returns:
            Rewards of shape (...).
        """
        return means + noise[1]

    def advance(self, tables: Tables, at: tuple[Any, ...], noise: Array) -> tuple[Any, Any]:
        """Sample next states and rewards.

        Args:
            tables: Arrays of one task, or of several tasks with a leading task axis.
            at: Current states and actions as the index ``(states, actions)``,
                or ``(tasks, states, actions)`` for arrays with a task axis.
                Each item has shape (...).
            noise: Random numbers for one step, of shape (2, ...).
                ``noise[0]`` selects the next states by inversion of the
                cumulative probabilities.

        Returns:
            Next states and rewards, both of shape (...).
        """
        states = (noise[0][..., None] >= tables.cumulative[at]).sum(axis=-1)
        return states, self.sample_rewards(tables.means[at], noise)

    def observe(self, states: Any, features: Array) -> Array:
        """Return observations: one-hot states and, with `observe_task`, the task.

        Args:
            states: States, of shape (...).
            features: Task values for each state, from :class:`Tables`, of
                shape (..., values).

        Returns:
            A float32 array of shape (..., features).
        """
        seen = [self._one_hot[states], features] if self.observe_task else [self._one_hot[states]]
        return np.concatenate(seen, axis=-1).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode on the current `task` in state 0.

        Args:
            seed: Seed for transitions and rewards. If None, the random number
                generator continues from its current state.
            options: Ignored.

        Returns:
            The first observation, and an empty info dictionary.
        """
        super().reset(seed=seed, options=options)
        self._tables, self._state, self._noise = self.task_values(self.task), 0, []
        return self.observe(self._state, self._tables.features), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance the state by one time step.

        Args:
            action: Index of the action, from 0 to num_actions − 1.

        Returns:
            Observation, reward, termination (always False), truncation
            (always False) and the info dictionary.
        """
        if not self._noise:
            self._noise = list(self.draw_noise(self.np_random, 1))
        at, noise = (self._state, action), self._noise.pop(0)
        self._state, reward = self.advance(self._tables, at, noise)
        return (self.observe(self._state, self._tables.features), float(reward), False, False, {})


class BatchedTabularMDP(BatchedTaskEnv):
    """A vectorized :class:`TabularMDP` or :class:`~metarl.envs.bandit.Bandit`."""

    def reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start one episode per sub-environment; return the observations."""
        found, self._group = distinct(tasks)
        read = map(self.formulas.task_values, found)
        self._tables = Tables(*(np.stack(tables) for tables in zip(*read, strict=True)))
        # Noise of a whole episode, equal to the noise that the scalar environment samples.
        rngs, steps = map(np.random.default_rng, seeds), self.max_episode_steps
        noise = [self.formulas.draw_noise(rng, steps) for rng in rngs]
        self._noise = np.stack(noise, axis=-1)  # (step, number, row)
        self._states = np.zeros(self.num_envs, dtype=np.intp)
        return self._observe()

    def step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Advance the sub-environments by one time step."""
        time = min(self._elapsed, self.max_episode_steps - 1)  # after that, every row has ended
        at = self._group, self._states, actions
        self._states, rewards = self.formulas.advance(self._tables, at, self._noise[time])
        return self._observe(), rewards, np.zeros(self.num_envs, dtype=bool), {}

    def _observe(self) -> Array:
        return np.asarray(self.formulas.observe(self._states, self._tables.features[self._group]))
