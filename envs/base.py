"""Interface for environments with tasks, and base class for vectorized environments."""

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
    """Format a task description, or one of its fields, as one line for error messages.

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
    """Return the distinct task objects, and the index of each task in the list of these objects.

    Sub-environments often share a task object. Expensive computations then only run once per
    distinct task.

    Args:
        tasks: One task per sub-environment.

    Returns:
        The distinct task objects, and an integer array of shape (num_envs,) with the index of each
        sub-environment's task.
    """
    keys = [id(task) for task in tasks]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return [tasks[row] for row in first], group


class BatchedTaskEnv(VectorEnv[Array, Array, Array]):
    """Base class for vectorized environments that step all sub-environments at once.

    Each sub-environment runs one episode on one task, and all sub-environments are reset together.
    A sub-environment whose episode has ended repeats the last observation with reward 0 until the
    next reset, so that a rollout contains exactly one episode per sub-environment.

    Subclasses implement :meth:`reset_rows` and :meth:`step_rows`. Subclasses also override
    :meth:`check_tasks`, unless the scalar environment has a method ``task_values(task)`` that
    raises a ValueError for malformed tasks.

    Attributes:
        formulas: An instance of the scalar environment that is never stepped. This instance
            provides the spaces, the task distribution and, in many environments, the dynamics.
        tasks: One task per sub-environment. To change the tasks, call ``set_attr("task", ...)``.
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
        """Create the vectorized environment with one sampled task per sub-environment.

        Args:
            scalar: Class of the scalar environment.
            num_envs: Number of sub-environments, each of which runs one episode at a time.
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

    def reset_rows(self, tasks: list[TaskDescription], seeds: list[int | None]) -> Array:
        """Start one episode per sub-environment.

        Args:
            tasks: One task per sub-environment.
            seeds: One seed per sub-environment; None for an episode that is not reproducible.

        Returns:
            The first observations, of shape (num_envs, ...).
        """
        raise NotImplementedError

    def step_rows(self, actions: Array) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Advance the sub-environments by one time step.

        The mask ``self._ended`` is True for sub-environments whose episode has ended. These
        sub-environments do not have to be simulated, because the values returned for them are
        ignored.

        Args:
            actions: One action per sub-environment.

        Returns:
            Observations of shape (num_envs, ...), rewards and terminations of shape (num_envs,),
            and the info dictionary.
        """
        raise NotImplementedError

    def reset(
        self,
        *,
        seed: int | np.integer[Any] | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start one episode in every sub-environment.

        Args:
            seed: An integer s for the seeds s, s + 1, ... of the sub-environments, or a sequence
                with one seed per sub-environment. If None, episodes are not reproducible.
            options: Ignored.

        Returns:
            Observations of shape (num_envs, ...), and an empty info dictionary.
        """
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.num_envs)
        seeds = (None,) * self.num_envs if seed is None else seed
        self._observations = self.reset_rows(self.tasks, list(seeds))
        self._ended, self._elapsed = np.zeros(self.num_envs, dtype=bool), 0
        return self._observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance all sub-environments whose episode has not ended by one time step.

        Args:
            actions: One action per sub-environment.

        Returns:
            Observations of shape (num_envs, ...); rewards, terminations and truncations of shape
            (num_envs,); and the info dictionary.
        """
        observations, rewards, terminations, info = self.step_rows(actions)
        self._elapsed += 1
        if self._ended.any():
            running = ~self._ended
            kept = running.reshape(-1, *[1] * (observations.ndim - 1))
            observations = np.where(kept, observations, self._observations)
            rewards, terminations = rewards * running, terminations & running
        late = self._elapsed >= self.max_episode_steps
        truncations = ~self._ended if late else np.zeros_like(self._ended)
        self._ended = self._ended | terminations | truncations
        self._observations = observations
        return observations, rewards, terminations, truncations, info

    # SyncVectorEnv and AsyncVectorEnv have the next three methods, but their base class does not.
    def set_attr(self, name: str, values: Any) -> None:
        """Set the task of every sub-environment.

        Args:
            name: ``"task"``, the only attribute that can be set.
            values: One task for all sub-environments, or a list with one task per sub-environment.

        Raises:
            AttributeError: If `name` is not ``"task"``.
            ValueError: If `values` is a list of the wrong length, or a task is malformed.
        """
        if name != "task":
            hint = "Create a new environment instead"
            raise AttributeError(f"only the attribute 'task' can be set, got {name!r}. {hint}")
        tasks = [values] * self.num_envs if isinstance(values, dict) else list(values)
        if len(tasks) != self.num_envs:
            expected = f"expected {self.num_envs} tasks, one per sub-environment"
            raise ValueError(f"wrong number of tasks: {expected}, got {len(tasks)}")
        self.check_tasks(tasks)
        self.tasks = tasks

    def check_tasks(self, tasks: list[TaskDescription]) -> None:
        """Raise a ValueError if a task is malformed."""
        for task in distinct(tasks)[0]:
            self.formulas.task_values(task)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return the value of the attribute `name` for every sub-environment, as a tuple."""
        return tuple(self.tasks) if name == "task" else (getattr(self, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method or read an attribute; return a tuple with one result per sub-environment.

        All sub-environments share one object, so a method is called only once.

        Args:
            name: Name of the method or the attribute.
            args: Positional arguments for the method.
            kwargs: Keyword arguments for the method.
        """
        if callable(member := self.get_attr(name)[0]):
            return (member(*args, **kwargs),) * self.num_envs
        return self.get_attr(name)
