"""Interface for environments with tasks, and base class for vectorized environments."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


TaskDescription: TypeAlias = dict[str, Any]
"""A task as a JSON-serializable dictionary, such as ``{"goal": [x, y]}``."""

Array: TypeAlias = NDArray[Any]

MAX_FIELD = 80  # maximum number of characters per task field in an error message


@runtime_checkable
class TaskEnv(Protocol):
    """The interface for Gymnasium environments with a task distribution.

    Any environment with the attribute `task` and the method :meth:`sample_tasks` can be used for
    meta-learning.

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
        """Return a list of `num_tasks` tasks, sampled from the task distribution with `rng`."""


def task_array(task: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Return the numbers in a task description with one field, such as ``{"goal": [x, y]}``.

    Args:
        task: The task description.
        name: Name of the field.
        shape: Expected shape of the numbers.

    Returns:
        A float64 array of shape `shape`.

    Raises:
        ValueError: If the task does not have exactly this field, with finite numbers of the
            expected shape.
    """
    return task_arrays(task, {name: shape})[0]


def task_arrays(
    task: Any, shapes: dict[str, tuple[int, ...]], *, under: str | None = None
) -> list[Array]:
    """Return the numbers in a task description with several fields.

    Args:
        task: The task description.
        shapes: Expected shapes by field name.
        under: Key of a nested dictionary that contains the fields, such as ``"scales"`` in
            ``{"scales": {"body_mass": [...]}}``. Default: the task itself contains the fields.

    Returns:
        One float64 array per field, in the order of `shapes`.

    Raises:
        ValueError: If the task does not have exactly these fields, with finite numbers of the
            expected shapes.
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
    """Format a task description as one line for error messages.

    Fields with more than 80 characters are replaced by the shape of the numbers: a field of shape
    (10, 5) is written as [10][5].
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
    """Return the distinct task objects, and one index into these objects per row.

    Many rows often share a task object. Expensive computations then only run once per distinct
    task.

    Args:
        tasks: One task per row.

    Returns:
        The distinct task objects, and an integer array of shape (rows,) with the index of the task
        in each row.
    """
    keys = [id(task) for task in tasks]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return [tasks[row] for row in first], group


class BatchedTaskEnv(VectorEnv[Array, Array, Array]):
    """Base class for vectorized environments, which step many episodes in NumPy arrays.

    Each row runs one episode on one task, and all rows are reset together. After the end of
    an episode, the row repeats the last observation with reward 0 until the next reset, so that a
    rollout contains exactly one episode per row. Episodes are truncated after `max_episode_steps`.

    Subclasses implement :meth:`_reset_rows` and :meth:`_step_rows`. Subclasses also override
    :meth:`_check_tasks`, unless the scalar environment has a method ``task_values(task)`` that
    raises a ValueError for malformed tasks.

    Attributes:
        formulas: An instance of the scalar environment that is never stepped. This instance
            provides the spaces, the task distribution and, in many environments, the dynamics.
        tasks: One task per row. To change the tasks, call ``set_attr("task", ...)``.
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
        """Create the vectorized environment with one sampled task per row.

        Args:
            scalar: Class of the scalar environment.
            num_envs: Number of rows, with one episode per row.
            max_episode_steps: Number of time steps after which episodes are truncated.
            kwargs: Keyword arguments for `scalar`.
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
        """Sample `num_tasks` tasks from the task distribution of the scalar environment."""
        return list(self.formulas.sample_tasks(num_tasks, rng))

    def _reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start one episode per row.

        Args:
            tasks: One task per row.
            seeds: One seed per row; None for an episode that is not reproducible.

        Returns:
            The first observations, of shape (rows, ...).
        """
        raise NotImplementedError

    def _step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Advance the rows by one time step.

        The returned values are ignored for rows whose episode has ended (see ``self._ended``), so
        that these rows do not have to be simulated.

        Args:
            actions: One action per row.

        Returns:
            Observations of shape (rows, ...), rewards and terminations of shape (rows,), and the
            info dictionary.
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
            seed: Seed of the first row, which is incremented by 1 for each further row, or a
                sequence with one seed per row. Default: episodes are not reproducible.
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
            Observations of shape (rows, ...); rewards, terminations and truncations of shape
            (rows,); and the info dictionary.
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
            values: One task description for all rows, or a list with one task description per row.

        Raises:
            AttributeError: If `name` is not ``"task"``.
            ValueError: If the list does not contain one task per row, or a task is malformed.
        """
        if name != "task":
            raise AttributeError(f"only the attribute 'task' can be set, got {name!r}")
        tasks = [values] * self.num_envs if isinstance(values, dict) else list(values)
        if len(tasks) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} tasks, one per row, got {len(tasks)} tasks")
        self._check_tasks(tasks)
        self.tasks = tasks

    def _check_tasks(self, tasks: list[TaskDescription]) -> None:
        """Raise a ValueError if a task is malformed."""
        for task in distinct(tasks)[0]:
            self.formulas.task_values(task)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return the value of the attribute `name` for every row, as a tuple."""
        return tuple(self.tasks) if name == "task" else (getattr(self, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call the method `name`, or read the attribute `name`, and return one result per row.

        All rows share one environment object, so a method is called only once.

        Args:
            name: Name of the method or the attribute.
            args: Positional arguments for the method.
            kwargs: Keyword arguments for the method.

        Returns:
            A tuple of length ``num_envs``.
        """
        if callable(member := self.get_attr(name)[0]):
            return (member(*args, **kwargs),) * self.num_envs
        return self.get_attr(name)
