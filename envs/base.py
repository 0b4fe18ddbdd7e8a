"""What every environment of the package has in common: tasks, and a batched face."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


TaskDescription: TypeAlias = dict[str, Any]
"""A task as JSON-able values: ``{"goal": [x, y]}``, ``{"direction": 1}``."""

Array: TypeAlias = NDArray[Any]

Choice: TypeAlias = int | np.integer[Any]
"""An action of a ``Discrete`` space."""

MAX_FIELD = 80  # characters of a field of a task in an error message


@runtime_checkable
class TaskEnv(Protocol):
    """An environment with a distribution of tasks. Any Gymnasium environment may be one.

    Attributes:
        task: The current task; a new value takes effect at the next reset.
    """

    task: TaskDescription

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw tasks from the distribution."""


def task_array(task: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Read the one numeric field of a task description, see :func:`task_arrays`."""
    return task_arrays(task, {name: shape})[0]


def task_arrays(task: Any, shapes: dict[str, tuple[int, ...]]) -> list[Array]:
    """Read the numeric fields of a task description.

    Raises:
        ValueError: If the description does not have exactly these fields, of these shapes, finite.
    """
    if isinstance(task, dict) and set(task) == set(shapes):
        fields = [_numbers(task[name]) for name in shapes]
        wanted = zip(fields, shapes.values(), strict=True)
        if all(values.shape == shape and np.isfinite(values).all() for values, shape in wanted):
            return fields
    example = {name: np.zeros(shape).tolist() for name, shape in shapes.items()}
    raise ValueError(f"a task of this environment looks like {brief(example)}, got {brief(task)}")


def _numbers(values: Any) -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer of 400 digits
        return np.asarray(np.nan)


def brief(task: Any) -> str:
    """Write a task in one line: a field of many numbers as its shape, such as [10][5]."""
    if not isinstance(task, dict):
        return _brief_field(task)
    return f"{{{', '.join(f'{name!r}: {_brief_field(value)}' for name, value in task.items())}}}"


def _brief_field(value: Any) -> str:
    text = " ".join(repr(value).split())  # arrays are written in several lines
    if len(text) <= MAX_FIELD:
        return text
    numbers = _numbers(value)
    if numbers.ndim == 0:
        return f"{text[: MAX_FIELD - 3]}..."
    shape = "".join(f"[{size}]" for size in numbers.shape)
    return shape if np.isfinite(numbers).all() else f"{shape} with numbers that are not finite"


class BatchedTaskEnv(VectorEnv[Array, Array, Array]):
    """Base of the batched environments: every row is one episode of one task.

    An ended row is frozen: it keeps its last observation, earns 0 and is never reset by itself, so
    a rollout holds exactly one episode a row. Rows are truncated after `max_episode_steps`.

    Subclasses implement :meth:`sample_tasks`, :meth:`_reset_rows` and :meth:`_step_rows`.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (Gymnasium's name)

    def __init__(
        self,
        num_envs: int,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.Space[Any],
        *,
        max_episode_steps: int,
    ) -> None:
        """Describe `num_envs` rows of single spaces."""
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.tasks: list[TaskDescription] = self.sample_tasks(num_envs, np.random.default_rng(0))
        self._ended = np.ones(num_envs, dtype=bool)
        self._observations = np.zeros((num_envs, *observation_space.shape), observation_space.dtype)
        self._elapsed = 0

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw tasks from the distribution."""
        raise NotImplementedError

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start an episode of each task and return the first observations."""
        raise NotImplementedError

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Advance the rows; return observations, rewards, terminations and the info.

        Rows of ``self._ended`` may be left out: whatever is returned for them is not used.
        """
        raise NotImplementedError

    def reset(
        self,
        *,
        seed: int | np.integer[Any] | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start one episode in every row; `seed` may be one per row."""
        del options
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = list(seed)
        self._observations = self._reset_rows(self.tasks, seeds)
        self._ended = np.zeros(self.num_envs, dtype=bool)
        self._elapsed = 0
        return self._observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance the rows that have not ended."""
        observations, rewards, terminations, info = self._step_rows(actions)
        self._elapsed += 1
        if self._ended.any():
            running = ~self._ended
            observations = np.where(running[:, None], observations, self._observations)
            rewards, terminations = rewards * running, terminations & running
        late = self._elapsed >= self.max_episode_steps
        truncations = ~self._ended if late else np.zeros_like(self._ended)
        self._ended = self._ended | terminations | truncations
        self._observations = observations
        return observations, rewards, terminations, truncations, info

    # Gymnasium's base class has none of these three; Sync- and AsyncVectorEnv do.
    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of the rows: ``set_attr("task", [one task per row])``, or one for all.

        Raises:
            AttributeError: If the attribute is another than ``task``.
            ValueError: If there is not one task per row.
        """
        if name != "task":
            raise AttributeError(f"{type(self).__name__} sets 'task' alone, got {name!r}")
        tasks = [values] * self.num_envs if isinstance(values, dict) else list(values)
        if len(tasks) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} tasks, one per row, got {len(tasks)}")
        self._check_tasks(tasks)
        self.tasks = tasks

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        """Raise ValueError if one of `tasks` is malformed; rows often share the same object."""
        raise NotImplementedError

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every row."""
        if name == "task":
            return tuple(self.tasks)
        return (getattr(self, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method once and return its result for every row; read an attribute likewise."""
        member = getattr(self, name) if name != "task" else None
        if callable(member):
            return (member(*args, **kwargs),) * self.num_envs
        return self.get_attr(name)
