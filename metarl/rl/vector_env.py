"""Vector environments with tasks: ours, and those that Gymnasium makes of any other."""

import json
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from metarl.rl.blame import Checked, blame, blame_rows, brief


NO_TASKS = "has no tasks: it needs an attribute `task` and a method sample_tasks(num_tasks, rng)"


def make_vector_env(env_id: str, num_envs: int, **kwargs: Any) -> Any:
    """Make a registered environment with `num_envs` rows, and make sure that it has tasks.

    Every scalar environment is :class:`~metarl.rl.blame.Checked`; a batched face is taken as it is.

    Raises:
        ValueError: If it has none, or they cannot be written as JSON.
        EnvironmentFailed: If it cannot be made, or draws no tasks.
    """
    if kwargs.get("vectorization_mode") == "async":
        kwargs["wrappers"] = [*kwargs.get("wrappers", ()), Checked]
    with blame(env_id, "__init__", gymnasium.error.Error, ImportError, TypeError):
        env: Any = gymnasium.make_vec(env_id, num_envs=num_envs, **kwargs)
    if isinstance(env, SyncVectorEnv):
        env.envs = [Checked(one) for one in env.envs]
    if not all(hasattr(env, name) for name in ("call", "get_attr", "set_attr")):
        raise ValueError(f"{env_id} {NO_TASKS}")
    with blame_rows(env, env_id, "sample_tasks"):
        if not _has_tasks(env):
            raise ValueError(f"{env_id} {NO_TASKS}")
        drawn = env.call("sample_tasks", 2, np.random.default_rng(0))[0]
    if not _are_tasks(drawn, 2):
        raise ValueError(
            f"sample_tasks(2, rng) of {env_id} must return a list of 2 dictionaries of JSON "
            f"values (numbers and lists, no numpy arrays), got {brief(drawn)}"
        )
    return env


def _has_tasks(env: Any) -> bool:
    if isinstance(env, SyncVectorEnv | AsyncVectorEnv):
        return all(env.call("has_wrapper_attr", name)[0] for name in ("task", "sample_tasks"))
    return hasattr(env, "sample_tasks")


def _are_tasks(drawn: Any, num_tasks: int) -> bool:
    """Say whether these are task descriptions that a run can record."""
    try:
        json.dumps(drawn)
    except (TypeError, ValueError):
        return False
    described = isinstance(drawn, list) and all(isinstance(task, dict) for task in drawn)
    return described and len(drawn) == num_tasks


def spec_of(env: Any) -> Any:
    """Return the specification of a vector environment or, if it was built by hand, of its rows."""
    spec = getattr(env, "spec", None)
    return env.get_attr("spec")[0] if spec is None and hasattr(env, "get_attr") else spec


def horizon_of(env: Any) -> int | None:
    """Return after how many steps an environment truncates its episodes, if it says so."""
    spec = spec_of(env)
    said = (
        getattr(env, "max_episode_steps", None),
        getattr(spec, "kwargs", {}).get("max_episode_steps"),  # given to make_vec
        getattr(spec, "max_episode_steps", None),
    )
    return next((steps for steps in said if steps is not None), None)
