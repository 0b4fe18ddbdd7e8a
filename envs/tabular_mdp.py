"""Random Markov decision processes of a few states, whose optimum can be computed.

The scalar class holds the rules and applies them to one state; the batched one applies them to the
states of all rows, so that both agree to the last bit. Bandits (:mod:`metarl.envs.bandit`) are MDPs
of one state with other tasks and rewards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, Choice, TaskDescription, distinct, task_arrays


HORIZON = 10
BLOCK = 10  # steps whose noise is drawn together
TOLERANCE = 1e-6  # of sums of probabilities


def optimal_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what the best policy earns on average; it may depend on the time step."""
    return _expected_return(task, horizon, lambda values: values.max(axis=1))


def uniform_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what acting at random earns on average: chance."""
    return _expected_return(task, horizon, lambda values: values.mean(axis=1))


def _expected_return(
    task: TaskDescription, horizon: int, choose: Callable[[Array], Array]
) -> float:
    """Compute the value of the first state by dynamic programming.

    With h steps to go, Q_h(s, a) = r(s, a) + Σ_s' P(s, a, s') V_{h−1}(s') and V_h = choose(Q_h).
    """
    transitions, rewards = np.asarray(task["transitions"]), np.asarray(task["rewards"])
    values = np.zeros(len(rewards))
    for _ in range(horizon):
        values = choose(rewards + transitions @ values)
    return float(values[0])


class Tables(NamedTuple):
    """A task as arrays.

    Attributes:
        cumulative: Cumulative probabilities of the next states (state, action, next state).
        means: Mean rewards (state, action).
        task_features: What the observation shows of it if asked for, a vector.
    """

    cumulative: Array
    means: Array
    task_features: Array


class TabularMDP(gymnasium.Env[Array, Choice]):
    """Ten states and five actions, of which all is unknown: where they lead and what they sample_rewards.

    ## Description
    The random MDPs of Duan et al. 2016. Every episode starts in state 0.

    ## Action space
    `Discrete(5)`; as many as `num_actions`.

    ## Observation space
    | num | observation | min | max |
    |---|---|---|---|
    | 0-9 | 1 at the state, else 0 | 0 | 1 |
    | 10-59 | mean rewards by state and action, with `observe_task=True` only | -inf | inf |
    | 60-559 | probabilities by state, action, next state, likewise | 0 | 1 |

    ## Rewards
    N(mean of state and action, 1).

    ## Tasks
    `{"transitions": [10][5][10], "rewards": [10][5]}`, drawn from Dirichlet(1) and N(1, 1). They
    are, for every state and action, the probabilities of the next state and a mean reward.
    :func:`optimal_return` and :func:`uniform_return` tell what the best policy and chance sample_rewards.

    ## Episode end
    Never terminates; truncated after 10 steps.

    ## Arguments
    `num_states`, `num_actions`: the size. `observe_task`: append the task to the observation.

    ## Version history
    v0: the tabular MDPs of RL² (Duan et al. 2016, arXiv:1611.02779), with the horizon of 10 and the
    unit variance of rewards that pytorch-maml-rl has.
    """

    vectorized = "metarl.envs.tabular_mdp:BatchedTabularMDP"

    def __init__(
        self, *, num_states: int = 10, num_actions: int = 5, observe_task: bool = False
    ) -> None:
        """Start with some task of the distribution; set `task` to choose another."""
        if num_states < 1 or num_actions < 1:
            got = f"num_states={num_states}, num_actions={num_actions}"
            raise ValueError(f"an MDP has at least one state and one action, got {got}")
        self.size = num_states, num_actions
        self.observe_task = observe_task
        self.observation_space: spaces.Box = self.space()
        self.action_space = spaces.Discrete(num_actions)
        self._one_hot = np.eye(num_states)
        self.task = self.sample_tasks(1, np.random.default_rng(0))[0]
        self._tables, self._state = self.task_values(self.task), 0
        self._noise: list[Array] = []

    def space(self) -> spaces.Box:
        """Return the space of observations: the state, and the tables of the task."""
        num_states, pairs = self.size[0], self.size[0] * self.size[1]
        counts = [num_states, pairs * self.observe_task, pairs * num_states * self.observe_task]
        low, high = np.repeat([[0, -np.inf, 0], [1, np.inf, 1]], counts, axis=1).astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw tasks from the distribution."""
        return [self.draw_task(rng) for _ in range(num_tasks)]

    def draw_task(self, rng: np.random.Generator) -> TaskDescription:
        """Draw transitions from Dirichlet(1) and mean rewards from N(1, 1)."""
        transitions = rng.dirichlet(np.ones(self.size[0]), self.size).tolist()
        return {"transitions": transitions, "rewards": rng.normal(1.0, 1.0, self.size).tolist()}

    def task_values(self, task: TaskDescription) -> Tables:
        """Read a task.

        Raises:
            ValueError: If it has another size, or its transitions are no probabilities.
        """
        shapes = {"transitions": (*self.size, self.size[0]), "rewards": self.size}
        transitions, rewards = task_arrays(task, shapes)
        totals = transitions.sum(axis=-1)
        wrong = (transitions < 0).any(axis=-1) | (np.abs(totals - 1) > TOLERANCE)
        if wrong.any():
            state, action = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"the transitions of a task are probabilities that sum to 1 over the next states, "
                f"got {transitions[state, action].tolist()} for state {state}, action {action}"
            )
        # Divided by their last, which makes it 1: a draw below 1 always finds a state.
        cumulative = transitions.cumsum(axis=-1)
        cumulative /= cumulative[..., -1:]
        return Tables(cumulative, rewards, np.concatenate([rewards.ravel(), transitions.ravel()]))

    def draw_noise(self, rng: np.random.Generator, steps: int) -> Array:
        """Draw what `steps` steps need, or somewhat more (step, 2): U(0, 1) and N(0, 1).

        Drawn step by step, it would cost a row of a batch as many calls as it has numbers.
        """
        blocks = range(0, steps, BLOCK)
        pairs = [(rng.random(BLOCK), rng.standard_normal(BLOCK)) for _ in blocks]
        return np.concatenate(pairs, axis=1).T

    def sample_rewards(self, means: Any, noise: Array) -> Any:
        """Return rewards (...) of mean rewards (...), with the noise (number, ...) of a step."""
        return means + noise[1]

    def advance(self, tables: Tables, at: tuple[Any, ...], noise: Array) -> tuple[Any, Any]:
        """Advance by one time step.

        Args:
            tables: Of one task, or those of several stacked.
            at: Where in them: the task if they are stacked, the state and the action, each (...).
            noise: Of one step (number, ...); the first number decides the next state.

        Returns:
            Next states and rewards (...).
        """
        states = (noise[0][..., None] >= tables.cumulative[at]).sum(axis=-1)
        return states, self.sample_rewards(tables.means[at], noise)

    def observe(self, states: Any, task_features: Array) -> Array:
        """Return the observation of states (...), and of what is task_features of their tasks."""
        seen = (
            [self._one_hot[states], task_features] if self.observe_task else [self._one_hot[states]]
        )
        return np.concatenate(seen, axis=-1).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Go to state 0; the current `task` takes effect."""
        super().reset(seed=seed, options=options)
        self._tables, self._state, self._noise = self.task_values(self.task), 0, []
        return self.observe(self._state, self._tables.task_features), {}

    def step(self, action: Choice) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take an action."""
        if not self._noise:
            self._noise = list(self.draw_noise(self.np_random, 1))
        at, noise = (self._state, action), self._noise.pop(0)
        self._state, reward = self.advance(self._tables, at, noise)
        return (
            self.observe(self._state, self._tables.task_features),
            float(reward),
            False,
            False,
            {},
        )


class BatchedTabularMDP(BatchedTaskEnv):
    """Many episodes of a :class:`TabularMDP` at once, in numpy arrays; the same dynamics."""

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        found, self._group = distinct(tasks)
        read = map(self.formulas.task_values, found)
        self._tables = Tables(*(np.stack(tables) for tables in zip(*read, strict=True)))
        # A whole episode at once: the same numbers as the scalar face draws on its way.
        rngs, steps = map(np.random.default_rng, seeds), self.max_episode_steps
        noise = [self.formulas.draw_noise(rng, steps) for rng in rngs]
        self._noise = np.stack(noise, axis=-1)  # (step, number, row)
        self._states = np.zeros(self.num_envs, dtype=np.intp)
        return self._observe()

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        time = min(self._elapsed, self.max_episode_steps - 1)  # later, every row has ended
        at = self._group, self._states, actions
        self._states, rewards = self.formulas.advance(self._tables, at, self._noise[time])
        return self._observe(), rewards, np.zeros(self.num_envs, dtype=bool), {}

    def _observe(self) -> Array:
        return np.asarray(
            self.formulas.observe(self._states, self._tables.task_features[self._group])
        )
