"""The task interface of all environments, and the base class of vectorized environments."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


TaskDescription: TypeAlias = dict[str, Any]
"""A task as JSON-serializable values, such as ``{"goal": [x, y]}`` or ``{"direction": 1}``."""

Array: TypeAlias = NDArray[Any]

MAX_FIELD = 80  # maximum number of characters per task field in an error message


@runtime_checkable
class TaskEnv(Protocol):
    """The interface of an environment with a task distribution.

    Any Gymnasium environment with this attribute and this method can be used for meta-learning.

    Attributes:
        task: The current task. A new value takes effect at the next reset.

    Example::

        >>> import gymnasium
        >>> from metarl.envs.base import TaskEnv
        >>> isinstance(gymnasium.make("metarl/Bandit-v0").unwrapped, TaskEnv)
        True
    """

    task: TaskDescription

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample tasks from the task distribution.

        Args:
            num_tasks: Number of tasks.
            rng: Random generator.

        Returns:
            A list of `num_tasks` task descriptions.
        """


def task_array(task: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Return the only numeric field of a task description as an array.

    Args:
        task: The task description.
        name: Name of the field.
        shape: Shape of the field.

    Raises:
        ValueError: If the description does not consist of this field with finite numbers of this
            shape.
    """
    return task_arrays(task, {name: shape})[0]


def task_arrays(
    task: Any, shapes: dict[str, tuple[int, ...]], *, under: str | None = None
) -> list[Array]:
    """Return the numeric fields of a task description as arrays.

    Args:
        task: The task description.
        shapes: Shape of each field by name.
        under: Key that contains the fields, if they are nested in the description.

    Returns:
        The arrays in the order of `shapes`.

    Raises:
        ValueError: If the description does not consist of these fields with finite numbers of these
            shapes.
    """
    inner = {under: task} if under is None else task
    found = inner[under] if isinstance(inner, dict) and set(inner) == {under} else None
    if isinstance(found, dict) and set(found) == set(shapes):
        fields = [_numbers(found[name]) for name in shapes]
        fits = [values.shape for values in fields] == list(shapes.values())
        if fits and all(np.isfinite(values).all() for values in fields):
            return fields
    example: Any = {name: np.zeros(shape).tolist() for name, shape in shapes.items()}
    expected = brief({under: example} if under else example)
    raise ValueError(f"a task of this environment must have the form {expected}, got {brief(task)}")


def _numbers(values: Any) -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer of 400 digits
        return np.asarray(np.nan)


def brief(value: Any) -> str:
    """Return a task description as one line, in which long fields are replaced by their shape.

    A field of shape (10, 5) is written as [10][5] if its numbers need more than 80 characters.
    """
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {brief(field)}' for name, field in value.items())}}}"
    text, numbers = " ".join(repr(value).split()), _numbers(value)  # arrays have several lines
    if len(text) <= MAX_FIELD:
        return text
    shape = "".join(f"[{size}]" for size in numbers.shape) or f"{text[: MAX_FIELD - 3]}..."
    finite = numbers.ndim == 0 or np.isfinite(numbers).all()
    return shape if finite else f"{shape} with numbers that are not finite"


def distinct(tasks: list[TaskDescription]) -> tuple[list[TaskDescription], Array]:
    """Return the distinct task objects, and the index of each row's task among them.

    Rows often share a task object, so that per-task computations are done once per distinct task.

    Args:
        tasks: The task of each row.

    Returns:
        The distinct tasks, and an integer array of shape (rows,).
    """
    keys = [id(task) for task in tasks]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return [tasks[row] for row in first], group


class BatchedTaskEnv(VectorEnv[Array, Array, Array]):
    """Base class of the vectorized environments, which step many episodes in NumPy arrays.

    Each row runs one episode of its own task, and all rows are reset together. After its episode
    has ended, a row keeps its last observation and receives reward 0 until the next reset. A
    rollout therefore contains exactly one episode per row. Rows are truncated after
    `max_episode_steps`.

    Subclasses implement :meth:`_reset_rows` and :meth:`_step_rows`. They also override
    :meth:`_check_tasks` if their single environment has no method ``task_values(task)`` that raises
    a ValueError for malformed tasks.

    Attributes:
        formulas: An instance of the single environment that is never stepped. It provides the
            spaces, the task distribution, and often the dynamics of both implementations.
        tasks: The task of each row. Set it with ``set_attr("task", ...)``.
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
        """Create the rows.

        Args:
            scalar: Class of the single environment.
            num_envs: Number of rows.
            max_episode_steps: Number of time steps after which episodes are truncated.
            kwargs: Keyword arguments of `scalar`.
        """
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
        """Sample tasks from the task distribution."""
        return list(self.formulas.sample_tasks(num_tasks, rng))

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start one episode of each task and return the first observations."""
        raise NotImplementedError

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Advance the rows by one time step.

        Values of rows in ``self._ended`` are ignored, so these rows do not have to be simulated.

        Returns:
            Observations, rewards, terminations and the info dictionary.
        """
        raise NotImplementedError

    def reset(
        self,
        *,
        seed: int | np.integer[Any] | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start one episode in every row.

        Args:
            seed: Seed of the first row, incremented by 1 for each further row, or a sequence with
                one seed per row. Without a seed the episodes are not reproducible.
            options: Ignored.

        Returns:
            Observations of shape (rows, ...), and an empty info dictionary.
        """
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.num_envs)
        seeds = itertools.repeat(None, self.num_envs) if seed is None else seed
        self._observations = self._reset_rows(self.tasks, list(seeds))
        self._ended, self._elapsed = np.zeros(self.num_envs, dtype=bool), 0
        return self._observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance all rows whose episode has not ended by one time step.

        Args:
            actions: One action per row.

        Returns:
            Observations, rewards, terminations, truncations and the info dictionary, as in
            Gymnasium.
        """
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

    # SyncVectorEnv and AsyncVectorEnv have the next three methods, but their base class does not.
    def set_attr(self, name: str, values: Any) -> None:
        """Set the task of every row.

        Args:
            name: ``"task"``, the only attribute that can be set.
            values: One task description for all rows, or a list with one per row.

        Raises:
            AttributeError: If `name` is not ``"task"``.
            ValueError: If the number of tasks is not the number of rows, or a task is malformed.
        """
        if name != "task":
            raise AttributeError(f"only the attribute 'task' can be set, got {name!r}")
        tasks = [values] * self.num_envs if isinstance(values, dict) else list(values)
        if len(tasks) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} tasks, one per row, got {len(tasks)}")
        self._check_tasks(tasks)
        self.tasks = tasks

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        """Raise a ValueError if a task is malformed."""
        for task in distinct(tasks)[0]:
            self.formulas.task_values(task)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return the value of the attribute `name` for every row."""
        return tuple(self.tasks) if name == "task" else (getattr(self, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call the method `name` once, or read an attribute, and return the result for each row."""
        if callable(member := self.get_attr(name)[0]):
            return (member(*args, **kwargs),) * self.num_envs
        return self.get_attr(name)
