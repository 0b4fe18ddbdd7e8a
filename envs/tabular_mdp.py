"""Random Markov decision processes of a few states, whose optimum can be computed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, BatchedTaskEnv, Choice, TaskDescription, task_arrays


HORIZON = 10
BLOCK = 10  # steps whose noise is drawn together
TOLERANCE = 1e-6  # of sums of probabilities


def draw_noise(rng: np.random.Generator) -> Array:
    """Draw what `BLOCK` steps need (step, 2): U(0, 1) for the next state, N(0, 1) for the reward.

    Drawn step by step, it would cost a row of a batch as many calls as it has numbers.
    """
    return np.stack([rng.random(BLOCK), rng.standard_normal(BLOCK)], axis=1)


def advance(cumulative: Array, means: Any, uniforms: Any, normals: Any) -> tuple[Any, Any]:
    """Advance by one time step: the dynamics of both faces.

    Args:
        cumulative: Cumulative probabilities of the next states (..., state).
        means: Mean rewards (...).
        uniforms: First column of :func:`draw_noise` (...).
        normals: Second one (...).

    Returns:
        Next states and rewards (...).
    """
    states = (np.asarray(uniforms)[..., None] >= cumulative).sum(axis=-1)
    return states, means + normals


def optimal_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what the best policy earns on average; it may depend on the time step."""
    return _backward(task, horizon, lambda values: values.max(axis=1))


def uniform_return(task: TaskDescription, *, horizon: int = HORIZON) -> float:
    """Return what acting at random earns on average: chance."""
    return _backward(task, horizon, lambda values: values.mean(axis=1))


def _backward(task: TaskDescription, horizon: int, choose: Callable[[Array], Array]) -> float:
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
        cumulative: Cumulative probabilities (state, action, next state).
        means: Mean rewards (state, action).
        shown: What the observation shows of it, a vector; empty unless asked for.
    """

    cumulative: Array
    means: Array
    shown: Array


def _observation_space(num_states: int, num_actions: int, observe_task: bool) -> spaces.Box:
    low, high = np.zeros(num_states, np.float32), np.ones(num_states, np.float32)
    if observe_task:
        pairs = num_states * num_actions
        infinite = np.full(pairs, np.inf, np.float32)
        low = np.concatenate([low, -infinite, np.tile(low, pairs)])
        high = np.concatenate([high, infinite, np.tile(high, pairs)])
    return spaces.Box(low, high, dtype=np.float32)


class TabularMDP(gymnasium.Env[Array, Choice]):
    """Ten states and five actions, of which all is unknown: where they lead and what they earn.

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
    :func:`optimal_return` and :func:`uniform_return` tell what the best policy and chance earn.

    ## Episode end
    Never terminates; truncated after 10 steps.

    ## Arguments
    `num_states`, `num_actions`: the size. `observe_task`: append the task to the observation.

    ## Version history
    v0: the tabular MDPs of RL² (Duan et al. 2016, arXiv:1611.02779), with the horizon of 10 and the
    unit variance of rewards that pytorch-maml-rl has.
    """

    def __init__(
        self, *, num_states: int = 10, num_actions: int = 5, observe_task: bool = False
    ) -> None:
        """Start with some task of the distribution; set `task` to choose another."""
        if num_states < 1 or num_actions < 1:
            raise ValueError(
                "an MDP has at least one state and one action, got "
                f"num_states={num_states}, num_actions={num_actions}"
            )
        self._shapes = {
            "transitions": (num_states, num_actions, num_states),
            "rewards": (num_states, num_actions),
        }
        self.observe_task = observe_task
        self.observation_space: spaces.Box = _observation_space(
            num_states, num_actions, observe_task
        )
        self.action_space = spaces.Discrete(num_actions)
        self._one_hot = np.eye(num_states)
        self.task = self.sample_tasks(1, np.random.default_rng(0))[0]
        self._tables = self.tables(self.task)
        self._state: Any = 0
        self._time = 0

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw transitions from Dirichlet(1) and mean rewards from N(1, 1)."""
        return [self._draw_task(rng) for _ in range(num_tasks)]

    def _draw_task(self, rng: np.random.Generator) -> TaskDescription:
        *pairs, num_states = self._shapes["transitions"]
        transitions = rng.dirichlet(np.ones(num_states), pairs)
        return {
            "transitions": transitions.tolist(),
            "rewards": rng.normal(1.0, 1.0, pairs).tolist(),
        }

    def tables(self, task: TaskDescription) -> Tables:
        """Read a task.

        Raises:
            ValueError: If it has another size, or its transitions are no probabilities.
        """
        transitions, rewards = task_arrays(task, self._shapes)
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
        shown = np.concatenate([rewards.ravel(), transitions.ravel()])
        return Tables(cumulative, rewards, shown if self.observe_task else shown[:0])

    def observe(self, states: Any, shown: Array) -> Array:
        """Return the observation of states (...), and of what is shown of their tasks."""
        return np.concatenate([self._one_hot[states], shown], axis=-1).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Go to state 0; the current `task` takes effect."""
        super().reset(seed=seed, options=options)
        self._tables, self._state, self._time = self.tables(self.task), 0, 0
        return self.observe(self._state, self._tables.shown), {}

    def step(self, action: Choice) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take an action."""
        if self._time % BLOCK == 0:
            self._noise = draw_noise(self.np_random)
        at, noise = (self._state, action), self._noise[self._time % BLOCK]
        cumulative, means = self._tables.cumulative[at], self._tables.means[at]
        self._state, reward = advance(cumulative, means, *noise)
        self._time += 1
        return self.observe(self._state, self._tables.shown), float(reward), False, False, {}


class BatchedTabularMDP(BatchedTaskEnv):
    """:class:`TabularMDP` for many episodes at once, in numpy arrays; the same dynamics."""

    def __init__(
        self, num_envs: int = 1, *, max_episode_steps: int = HORIZON, **kwargs: Any
    ) -> None:
        """Make `num_envs` rows; `kwargs` are those of :class:`TabularMDP`."""
        self.single = TabularMDP(**kwargs)  # never stepped: it lends its spaces and its formulas
        observations, actions = self.single.observation_space, self.single.action_space
        super().__init__(num_envs, observations, actions, max_episode_steps=max_episode_steps)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw transitions from Dirichlet(1) and mean rewards from N(1, 1)."""
        return self.single.sample_tasks(num_tasks, rng)

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        for task in {id(task): task for task in tasks}.values():
            self.single.tables(task)

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        distinct = {id(task): task for task in tasks}  # rows often share one
        places = {key: place for place, key in enumerate(distinct)}
        self._group = np.array([places[id(task)] for task in tasks])
        read = [self.single.tables(task) for task in distinct.values()]
        self._tables = Tables(*(np.stack(tables) for tables in zip(*read, strict=True)))
        # A whole episode at once: the same blocks as the scalar face draws on its way.
        blocks, rngs = range(-(-self.max_episode_steps // BLOCK)), map(np.random.default_rng, seeds)
        noise = [np.concatenate([draw_noise(rng) for _ in blocks]) for rng in rngs]
        self._noise = np.stack(noise, axis=-1)  # (step, 2, row)
        self._states = np.zeros(self.num_envs, dtype=np.intp)
        return self._observe()

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        time = min(self._elapsed, self.max_episode_steps - 1)  # later, every row has ended
        at = self._group, self._states, actions
        cumulative, means = self._tables.cumulative[at], self._tables.means[at]
        self._states, rewards = advance(cumulative, means, *self._noise[time])
        return self._observe(), rewards, np.zeros(self.num_envs, dtype=bool), {}

    def _observe(self) -> Array:
        return self.single.observe(self._states, self._tables.shown[self._group])
