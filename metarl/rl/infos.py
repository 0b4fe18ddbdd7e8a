"""Entries of the environments' infos, such as ``info["success"]``, and structured observations.

The value of an info's entry for an episode is its maximum over the time steps: a
boolean entry is 1 if it was ever true in the episode, so that the mean over
episodes is a success rate.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from metarl.rl.episodes import Episodes, Rollout


ABSENT = -np.inf  # value of an entry that a time step does not contain


class Infos:
    """A reader of named entries from the infos of a vectorized environment.

    Args:
        names: Names of the entries.
        env: The vectorized environment.
        env_id: Name of the environment in error messages.

    Raises:
        ValueError: If a name is ``"return"``, which is the name of other metrics.
    """

    def __init__(self, names: Sequence[str], env: Any, env_id: str) -> None:
        if "return" in names:
            raise ValueError("`info` must not contain return, because returns are always reported")
        self.names = tuple(names)
        self._env, self._env_id, self._missing = env, env_id, {*names}
        self._seen: set[str] = set()

    def read(self, info: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
        """Return the entries at one time step, by name.

        Args:
            info: The info that the vectorized environment returned.

        Returns:
            Arrays of shape (num_envs,); −∞ where an environment returned no such entry.

        Raises:
            ValueError: If an entry is not one number or boolean per environment.
        """
        if self._missing:
            self._missing -= info.keys()
            self._seen |= info.keys()
        return {name: self._column(name, info) for name in self.names}

    def require_found(self) -> None:
        """Raise a ValueError if no info contained an entry until now; the message lists all names.

        Raises:
            ValueError: If the infos of all time steps until now lack an entry.
        """
        if self._missing:
            lost = ", ".join(name for name in self.names if name in self._missing)
            found = _names_in(self._env) or sorted(
                x for x in map(str, self._seen) if not x.startswith("_")
            )
            raise ValueError(
                f"`info` must be entries that {self._env_id} returns in its infos, got {lost}: "
                f"found {', '.join(found) or 'no numbers or booleans'}. Return the entry at every "
                "time step, or choose a different name"
            )

    def _column(self, name: str, info: dict[str, Any]) -> NDArray[np.float64]:
        number = self._env.num_envs
        if name not in info:
            return np.full(number, ABSENT)
        given, present = info[name], np.asarray(info.get(f"_{name}", True), bool)
        found = given.numpy(force=True) if isinstance(given, Tensor) else np.asarray(given)
        if found.dtype == object and found.shape == (number,):  # Gymnasium's missing value is None
            rows = np.broadcast_to(present, number)
            numbers = [as_number(x) if row else ABSENT for x, row in zip(found, rows, strict=True)]
            found = found if None in numbers else np.array(numbers, dtype=np.float64)
        if found.shape != (number,) or found.dtype.kind not in "biuf":
            raise ValueError(
                f"{self._env_id} must return one number or boolean per episode as info[{name!r}], "
                f"got an array of shape {found.shape} and type {found.dtype}"
            )
        return np.where(present, found.astype(np.float64), ABSENT)


def _names_in(env: Any) -> list[str]:
    """Return the names of all numbers in the last infos of wrapped scalar environments."""
    if not isinstance(env, SyncVectorEnv | AsyncVectorEnv):
        return []
    wrapped = env.call("has_wrapper_attr", "info_names")[0]
    return sorted({name for names in env.call("info_names") for name in names}) if wrapped else []


def diverged_in(info: dict[str, Any], number: int) -> Bool[np.ndarray, " number"]:
    """Return which of the environments report that the simulation has diverged.

    Values of the entry ``diverged`` that are neither numbers nor booleans are ignored, because the
    environment may use this name for something else.

    Args:
        info: The info of a vectorized environment at one time step.
        number: Number of sub-environments.
    """
    given = info.get("diverged", False)
    found = given.numpy(force=True) if isinstance(given, Tensor) else given
    if isinstance(found, np.ndarray) and found.dtype == bool and found.shape == (number,):
        return found
    rows = np.full(number, found) if isinstance(found, bool | np.bool_) else found
    if not isinstance(rows, np.ndarray | list) or len(rows) != number:
        return np.zeros(number, bool)
    return np.array([bool(as_number(x)) for x in rows])


def as_number(value: Any) -> float | None:
    """Return a number or boolean, such as a NumPy scalar, as a float, and None for other values.

    None is also returned for integers that are too large for a float.
    """
    plain = value.item() if getattr(value, "shape", None) == () else value
    try:
        return float(plain) if isinstance(plain, bool | int | float) else None
    except OverflowError:
        return None


def episode_infos(batch: Rollout | Episodes) -> dict[str, Float[Tensor, "*task"]]:
    """Return the mean over episodes of each entry's maximum over the time steps of the episode.

    For a boolean entry, the result is the fraction of the episodes in which
    the entry was ever true. An episode without the entry counts as 0.

    Args:
        batch: Episodes of one task, or with leading task axes.

    Returns:
        Tensors of shape (*task) by name.
    """
    return {name: _mean_maximum(values, batch.mask) for name, values in batch.infos.items()}


def _mean_maximum(
    values: Float[Tensor, "*task time episode"], mask: Tensor
) -> Float[Tensor, "*task"]:
    highest = torch.where(mask, values, ABSENT).amax(-2)
    return torch.where(highest == ABSENT, 0.0, highest).mean(-1)


def flattened(env: Any) -> Any:
    """Wrap an environment whose observations are not arrays in ``FlattenObservation``.

    Entries of dictionaries and tuples are concatenated, in the order of the space, and discrete
    values are encoded as one-hot vectors.

    Args:
        env: The environment.

    Returns:
        The wrapped environment; `env` itself if its observations are arrays or cannot be flattened,
        or if it is vectorized.
    """
    space = getattr(env, "observation_space", None)
    arrays = isinstance(space, gymnasium.spaces.Box) or hasattr(env, "num_envs")
    if space is None or arrays or _unsupported(space) is not None:
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
