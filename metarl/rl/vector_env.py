"""Vector environments with tasks: those of an environment, or those that Gymnasium makes of it."""

import json
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from metarl.rl.error_context import Checked, brief, error_context


NO_TASKS = "has no tasks: it needs an attribute `task` and a method sample_tasks(num_tasks, rng)"
INTERFACE = ("sample_tasks", "call", "get_attr", "set_attr")


def make_vector_env(env_id: str, num_envs: int, **kwargs: Any) -> Any:
    """Make a registered environment with `num_envs` rows, and check that it has tasks.

    Every scalar environment is :class:`~metarl.rl.error_context.Checked`; an environment's own
    vectorized implementation is used unchecked.

    Args:
        env_id: A Gymnasium id.
        num_envs: Rows.
        kwargs: Arguments of ``gymnasium.make_vec`` and of the environment.

    Raises:
        ValueError: If it has no tasks, or they cannot be written as JSON.
        EnvironmentFailed: If it cannot be made, or samples no tasks.
    """
    if kwargs.get("vectorization_mode") == "async":
        kwargs["wrappers"] = [*kwargs.get("wrappers", ()), Checked]
    with error_context(env_id, "__init__", gymnasium.error.Error, ImportError, TypeError):
        env: Any = gymnasium.make_vec(env_id, num_envs=num_envs, **kwargs)
    if isinstance(env, SyncVectorEnv):
        env.envs = [Checked(one) for one in env.envs]
    with error_context(env_id, "sample_tasks", env=env):
        if isinstance(env, SyncVectorEnv | AsyncVectorEnv):
            found = [env.call("has_wrapper_attr", name)[0] for name in ("task", "sample_tasks")]
        else:
            found = [hasattr(env, name) for name in INTERFACE]
        if not all(found):
            raise ValueError(f"{env_id} {NO_TASKS}")
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
    """Return the specification of a vector environment or, if it was built by hand, of its rows."""
    spec = getattr(env, "spec", None)
    return env.get_attr("spec")[0] if spec is None and hasattr(env, "get_attr") else spec


def horizon_of(env: Any) -> int | None:
    """Return after how many steps an environment truncates its episodes, if it states it."""
    spec = spec_of(env)
    stated = (
        getattr(env, "max_episode_steps", None),
        getattr(spec, "kwargs", {}).get("max_episode_steps"),  # given to make_vec
        getattr(spec, "max_episode_steps", None),
    )
    return next((steps for steps in stated if steps is not None), None)
