"""What every environment of the package has in common: tasks, and a batched face."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


TaskDescription: TypeAlias = dict[str, Any]
"""A task as JSON-able values: ``{"goal": [x, y]}``, ``{"direction": 1}``."""

Array: TypeAlias = NDArray[Any]

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


def task_arrays(
    task: Any, shapes: dict[str, tuple[int, ...]], *, under: str | None = None
) -> list[Array]:
    """Read the numeric fields of a task description.

    Args:
        task: The description.
        shapes: Names and shapes of the fields.
        under: The only key of the description, if the fields lie under one.

    Raises:
        ValueError: If the description does not have exactly these fields, of these shapes, finite.
    """
    inner = {under: task} if under is None else task
    found = inner[under] if isinstance(inner, dict) and set(inner) == {under} else None
    if isinstance(found, dict) and set(found) == set(shapes):
        fields = [_numbers(found[name]) for name in shapes]
        fits = [values.shape for values in fields] == list(shapes.values())
        if fits and all(np.isfinite(values).all() for values in fields):
            return fields
    example: Any = {name: np.zeros(shape).tolist() for name, shape in shapes.items()}
    looks = brief({under: example} if under else example)
    raise ValueError(f"a task of this environment looks like {looks}, got {brief(task)}")


def _numbers(values: Any) -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer of 400 digits
        return np.asarray(np.nan)


def brief(value: Any) -> str:
    """Write a task in one line: a field of many numbers as its shape, such as [10][5]."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {brief(field)}' for name, field in value.items())}}}"
    text, numbers = " ".join(repr(value).split()), _numbers(value)  # arrays have several lines
    if len(text) <= MAX_FIELD:
        return text
    shape = "".join(f"[{size}]" for size in numbers.shape) or f"{text[: MAX_FIELD - 3]}..."
    fine = numbers.ndim == 0 or np.isfinite(numbers).all()
    return shape if fine else f"{shape} with numbers that are not finite"


def distinct(tasks: list[TaskDescription]) -> tuple[list[TaskDescription], Array]:
    """Return the different objects among tasks, and the index of each row's task in them (rows,).

    Rows often share a task; what follows from it is computed once.
    """
    keys = [id(task) for task in tasks]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return [tasks[row] for row in first], group


class BatchedTaskEnv(VectorEnv[Array, Array, Array]):
    """Base of the batched environments: every row is one episode of one task.

    An ended row is frozen: it keeps its last observation, earns 0 and is never reset by itself, so
    a rollout holds exactly one episode a row. Rows are truncated after `max_episode_steps`.

    Subclasses implement :meth:`_reset_rows` and :meth:`_step_rows`, and :meth:`_check_tasks` if
    their scalar class has no ``task_values``, which reads a task or raises ValueError.

    Attributes:
        formulas: A scalar environment that is never stepped: it has the spaces, the tasks, and
            often the formulas of both implementations.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (Gymnasium's name)

    def __init__(
        self,
        scalar: Callable[..., Any],
        num_envs: int = 1,
        *,
        max_episode_steps: int,
        **kwargs: Any,
    ) -> None:
        """Make `num_envs` rows of a scalar class; `kwargs` are its arguments."""
        self.formulas = scalar(**kwargs)
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space = space = self.formulas.observation_space
        self.single_action_space = self.formulas.action_space
        self.observation_space = batch_space(space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.tasks: list[TaskDescription] = self.sample_tasks(num_envs, np.random.default_rng(0))
        self._ended = np.ones(num_envs, dtype=bool)
        self._observations = np.zeros((num_envs, *space.shape), space.dtype)
        self._elapsed = 0

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw tasks from the distribution."""
        return list(self.formulas.sample_tasks(num_tasks, rng))

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
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.num_envs)
        seeds = itertools.repeat(None, self.num_envs) if seed is None else seed
        self._observations = self._reset_rows(self.tasks, list(seeds))
        self._ended, self._elapsed = np.zeros(self.num_envs, dtype=bool), 0
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
        for task in distinct(tasks)[0]:
            self.formulas.task_values(task)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every row."""
        return tuple(self.tasks) if name == "task" else (getattr(self, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method once and return its result for every row; read an attribute likewise."""
        if callable(member := self.get_attr(name)[0]):
            return (member(*args, **kwargs),) * self.num_envs
        return self.get_attr(name)
