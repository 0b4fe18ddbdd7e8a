"""Observations that consist of several parts, such as dictionaries, as flat arrays."""

from typing import Any

import gymnasium
from gymnasium.wrappers import FlattenObservation


def flattened(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wrap an environment whose observations are not arrays in ``FlattenObservation``.

    Entries of dictionaries and tuples are concatenated, in the order of the space, and discrete
    values are encoded as one-hot vectors.

    Args:
        env: The environment.

    Returns:
        The wrapped environment; `env` itself if its observations are arrays or cannot be flattened.
    """
    space = env.observation_space
    if isinstance(space, gymnasium.spaces.Box) or _unsupported(space) is not None:
        return env
    return FlattenObservation(env)


def flattening(space: gymnasium.Space[Any]) -> str:
    """Return how to convert the observations of a space to a flat ``Box``, for error messages.

    Args:
        space: The observation space.
    """
    flatten = "gymnasium.wrappers.FlattenObservation"
    if (entry := _unsupported(space)) is None:
        return f"wrap the environment in {flatten}"
    name, kind = entry
    if not name:
        return (
            f"a {kind} space does not consist of a fixed number of numbers. Convert the "
            "observations with gymnasium.wrappers.TransformObservation"
        )
    kept = [n for n in getattr(space, "spaces", ()) if n != name and isinstance(n, str)]
    remove = f"gymnasium.wrappers.FilterObservation(env, {kept})"
    return (
        f"the entry {name!r} is a {kind} space, which does not consist of a fixed number of "
        f"numbers. Remove it with {remove if kept else 'gymnasium.wrappers.TransformObservation'}"
        f", then wrap the environment in {flatten}"
    )


def _unsupported(space: Any, name: str = "") -> tuple[str, str] | None:
    """Return the name and the type of the first entry that cannot be flattened, or None."""
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        found = (_unsupported(part, f"{name}/{key}".lstrip("/")) for key, part in parts)
        return next(filter(None, found), None)
    numbers = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    return None if isinstance(space, numbers | spaces.OneOf) else (name, type(space).__name__)
