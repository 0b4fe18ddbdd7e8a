"""Creation and validation of vectorized multi-task environments."""

import functools
import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import logger, spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import ClipAction

from metarl.rl.infos import as_number, flattened
from metarl.util.user_code import EnvironmentFailed as EnvironmentFailed
from metarl.util.user_code import origin
from metarl.util.workers import kill, limit_waiting


def make_vector_env(
    env_id: str,
    num_envs: int,
    *,
    info: Sequence[str] = (),
    worker_timeout: float | None = None,
    **kwargs: Any,
) -> Any:
    """Create a vectorized environment, and check that it can sample tasks.

    Scalar sub-environments are wrapped in :class:`~metarl.rl.vector_env.Checked`.

    Args:
        env_id: ID of an environment that is registered with Gymnasium.
        num_envs: Number of sub-environments.
        info: Names of the entries of scalar environments' infos that are kept.
        worker_timeout: Seconds to wait for an answer of a worker process, with
            ``vectorization_mode="async"``; None waits forever.
        kwargs: Arguments of ``gymnasium.make_vec`` and of the environment.

    Raises:
        ValueError: If the environment has no tasks, or tasks cannot be written as JSON.
        EnvironmentFailed: If the environment cannot be created or cannot sample tasks.
    """
    checked = functools.partial(Checked, info=info)
    if kwargs.get("vectorization_mode") == "async":
        kwargs["wrappers"] = [*kwargs.get("wrappers", ()), checked]
    with error_context(env_id, "__init__", gymnasium.error.Error, ImportError, TypeError):
        env: Any = gymnasium.make_vec(env_id, num_envs=num_envs, **kwargs)
    if isinstance(env, SyncVectorEnv):  # created again, because `checked` may change the spaces
        spec, makers = env.spec, [functools.partial(checked, one) for one in env.envs]
        env = SyncVectorEnv(makers, **(kwargs.get("vector_kwargs") or {}))
        env.spec = spec
    if isinstance(env, AsyncVectorEnv):
        limit_waiting(env, worker_timeout)
    with error_context(env_id, "sample_tasks", env=env):
        if isinstance(env, SyncVectorEnv | AsyncVectorEnv):
            found = [env.call("has_wrapper_attr", name)[0] for name in ("task", "sample_tasks")]
        else:
            found = [hasattr(env, n) for n in ("sample_tasks", "call", "get_attr", "set_attr")]
        if not all(found):
            raise ValueError(
                f"{env_id} has no tasks: expected an attribute `task` and a method "
                "sample_tasks(num_tasks, rng). Add both to the environment"
            )
        drawn = env.call("sample_tasks", 2, np.random.default_rng(0))[0]
    try:
        json.dumps(drawn)
        valid = [isinstance(task, dict) for task in drawn] == [True, True]
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"sample_tasks(2, rng) of {env_id} must return a list of 2 dictionaries of JSON "
            f"values (numbers and lists, no numpy arrays), got {brief(drawn)}"
        )
    return env


def spec_of(env: Any) -> Any:
    """Return the spec of a vectorized environment or of its first sub-environment, or None."""
    spec = getattr(env, "spec", None)
    return env.get_attr("spec")[0] if spec is None and hasattr(env, "get_attr") else spec


def horizon_of(env: Any) -> int:
    """Return the number of time steps after which an environment truncates its episodes.

    Raises:
        ValueError: If neither the environment nor its spec defines ``max_episode_steps``.
    """
    spec = spec_of(env)
    stated = (
        getattr(env, "max_episode_steps", None),
        getattr(spec, "kwargs", {}).get("max_episode_steps"),  # an argument of make_vec
        getattr(spec, "max_episode_steps", None),
    )
    for steps in stated:
        if steps is not None:
            return int(steps)
    raise ValueError("the environment has no horizon. Register it with max_episode_steps=N")


def clipped_actions(env: Any) -> Any:
    """Return the action space of an environment with the bounds that ``ClipAction`` clips to.

    The wrapper ``ClipAction`` replaces the bounds with infinity.

    Args:
        env: An environment, or a vectorized environment.
    """
    if isinstance(env, SyncVectorEnv | AsyncVectorEnv):
        return env.call("clipped_actions")[0]
    if hasattr(env, "single_action_space"):
        return env.single_action_space
    while isinstance(env, gymnasium.Wrapper) and (
        isinstance(env, ClipAction) or env.action_space == env.env.action_space
    ):
        env = env.env
    return env.action_space


def learning_wrapper(env: Any) -> str | None:
    """Return the name of the first wrapper that updates running statistics, or None.

    Args:
        env: An environment, or a vectorized environment in this process.
    """
    while env is not None:
        fields = getattr(env, "__dict__", {})
        learns = "obs_rms" in fields or "return_rms" in fields
        if learns and getattr(env, "update_running_mean", True):
            return type(env).__name__
        env = fields.get("env") or next(iter(fields.get("envs", ())), None)
    return None


def require_constant(env: Any, name: str) -> None:
    """Raise a ValueError if a wrapper learns, such as ``NormalizeObservation``.

    Args:
        env: An environment or a vectorized environment.
        name: Name of the environment, for the message.
    """
    found = learning_wrapper(env)
    if isinstance(env, AsyncVectorEnv) and env.call("has_wrapper_attr", "learning_wrapper")[0]:
        found = env.call("learning_wrapper")[0]
    if found:
        raise ValueError(
            f"{name} has the wrapper {found}, whose running statistics are not part of the "
            "checkpoints and differ between sub-environments. Remove the wrapper; in meta-RL, "
            "normalize_observations standardizes observations, and advantages are standardized"
        )


@contextmanager
def error_context(
    name: str,
    method: str,
    *passed: type[Exception],
    env: Any = None,
    tasks: Sequence[Any] = (),
) -> Iterator[None]:
    """Add the names of the environment and the method to errors raised within a context.

    After an error or an interruption, worker processes are killed, because they cannot be used
    again.

    Args:
        name: ID of the environment, for the message.
        method: Name of the method that is called within the context, for the message.
        *passed: Exception types that are raised unchanged, because their
            messages are complete. A ValueError whose message starts with
            `name` is also raised unchanged.
        env: The vectorized environment; None for scalar environments.
        tasks: The task of each sub-environment, to name the one whose worker process failed.

    Raises:
        EnvironmentFailed: For all other errors, with a one-line message.
    """
    processes, level = getattr(env, "processes", []), logger.min_level
    if processes:  # Gymnasium would print the traceback of the worker, and fail on % in it
        logger.min_level = logger.ERROR + 1
    try:
        yield
    except BaseException as error:
        died = kill(processes, error, tasks)
        if processes:
            env.closed = True
        if not isinstance(error, Exception | SystemExit):  # such as KeyboardInterrupt
            raise
        named = isinstance(error, ValueError) and str(error).startswith(f"{name} ")
        if not died and (named or isinstance(error, (EnvironmentFailed, *passed))):
            raise
        # contextlib treats a RuntimeError with this cause as the StopIteration (PEP 479).
        cause = None if isinstance(error, StopIteration) else error
        died = died and f'{died}; vectorization_mode="sync" runs all episodes in this process'
        text = died or f"{type(error).__name__}: {error}".strip(": ").removeprefix("ValueError: ")
        place = "" if died else origin(error)
        raise EnvironmentFailed(f"{name} failed in {method}: {brief(text)}{place}") from cause
    finally:
        logger.min_level = level


def brief(value: Any) -> str:
    """Return a value as one line of text with at most 300 characters."""
    return textwrap.shorten(str(value), 300, placeholder="...")


class Checked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that validates a scalar environment's observations and rewards.

    With worker processes, the wrapper runs in the worker. An invalid
    observation is therefore reported before it is written to shared memory,
    and a NaN reward before the loss becomes NaN. Gymnasium's passive checker
    validates only the first step.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, info: Sequence[str] | None = None) -> None:
        """Wrap an environment.

        Args:
            env: The environment, whose observations must match ``env.observation_space``.
            info: Names of the info entries to keep, whose values become floats. Because Gymnasium
                cannot convert every value to an array, all other entries except ``diverged`` are
                removed. None keeps all entries.
        """
        super().__init__(flattened(env))
        self._kept, self._last_info = info, dict[str, Any]()
        self._space = self.env.observation_space
        self._name = getattr(env.spec, "id", type(env.unwrapped).__name__)

    @property
    def clipped_actions(self) -> Any:
        """The action space with the bounds that ``ClipAction`` clips to."""
        return clipped_actions(self)

    @property
    def learning_wrapper(self) -> str | None:
        """Name of a wrapper with running statistics; None if there is no such wrapper."""
        return learning_wrapper(self.env)

    @property
    def info_names(self) -> list[str]:
        """Names of the numbers and booleans in the last info."""
        return sorted(str(n) for n, x in self._last_info.items() if as_number(x) is not None)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode and validate its first observation."""
        with error_context(self._name, "reset"):
            observation, info = self.env.reset(**kwargs)
            return self._fitting(observation, 0.0), self._readable(dict(info))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step and validate its observation and reward.

        Rewards and observations that are not finite are accepted if the
        action is not finite, because then the policy has diverged rather than
        the environment.
        """
        with error_context(self._name, "step"):
            observation, reward, terminated, truncated, info = self.env.step(action)
            _require_finite("the reward", float(reward), action)
            observation = self._fitting(observation, action)
            kept = self._readable(dict(info))
            return observation, float(reward), bool(terminated), bool(truncated), kept

    def _readable(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return the entries of an info to keep, as floats."""
        if self._kept is None:
            return info
        self._last_info = info
        kept: dict[str, Any] = {n: bool(as_number(info[n])) for n in ("diverged",) if n in info}
        for name in self._kept:
            if name in info:
                kept[name] = as_number(info[name])
                if kept[name] is None:
                    got = brief(repr(info[name]))
                    raise ValueError(f"info[{name!r}] must be a number or a boolean, got {got}")
        return kept

    def _fitting(self, observation: Any, action: Any) -> Any:
        """Validate an observation, and convert it to the dtype of the observation space."""
        if not isinstance(self._space, spaces.Box):
            return observation
        values, shape = np.asarray(observation), self._space.shape
        if values.shape != shape:
            raise ValueError(
                f"observations must have the shape {shape} of observation_space, got {values.shape}"
            )
        values = values.astype(self._space.dtype, casting="same_kind", copy=False)
        _require_finite("observations", values, action)
        return values


def _require_finite(what: str, value: Any, action: Any) -> None:
    if not np.isfinite(value).all() and np.isfinite(action).all():
        raise ValueError(f"{what} must be finite, got {brief(value)}")
