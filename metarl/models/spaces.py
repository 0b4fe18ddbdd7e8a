"""Observation and action spaces of a policy, which a run stores as JSON values."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from metarl.rl.vector_env import clipped_actions


LARGEST = 2**20  # elements of a space; a damaged file could otherwise exhaust the memory


class Spaces(NamedTuple):
    """The spaces of an environment, and its horizon.

    Attributes:
        observation: Observation space, a ``Box``.
        action: Action space, a ``Box`` or a ``Discrete`` space.
        horizon: Number of time steps after which training truncated the episodes.

    Example::

        import gymnasium
        import metarl
        from metarl.models.spaces import Spaces

        env = gymnasium.make("metarl/Navigation2D-v0")
        spaces = Spaces(env.observation_space, env.action_space, horizon=100)
        Spaces.read(spaces.to_json(), "config.json") == spaces  # True
    """

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]
    horizon: int

    @property
    def stored(self) -> bool:
        """Whether the spaces can be stored: Box observations, and Box or Discrete actions."""
        return isinstance(self.observation, Box) and isinstance(self.action, Box | Discrete)

    def to_json(self) -> dict[str, Any]:
        """Return the spaces as JSON values, which :meth:`read` reads."""
        action, observation = _to_json(self.action), _to_json(self.observation)
        return {"observation": observation, "action": action, "horizon": self.horizon}

    @classmethod
    def read(cls, values: Any, source: str | Path) -> "Spaces":
        """Create the spaces from JSON values.

        Args:
            values: Result of :meth:`to_json`.
            source: File with the values, for error messages.

        Raises:
            ValueError: If the values are damaged.
        """
        try:
            observation, action = (_from_json(values[name]) for name in cls._fields[:2])
            if type(horizon := values["horizon"]) is not int or horizon < 1:
                raise ValueError(f"horizon must be an integer of at least 1, got {horizon!r:.40}")
            return cls(observation, action, horizon)
        except (KeyError, TypeError, ValueError, OverflowError, AssertionError) as error:
            raise ValueError(
                f"{source} is damaged: `spaces` cannot be read ({error}). Restore the "
                "file from a backup"
            ) from None

    def require_same(self, env: Any) -> None:
        """Raise a ValueError if an environment does not match these spaces.

        Observations must have the same shape, and actions the same shape and
        bounds, with or without the wrapper ``ClipAction``.

        Args:
            env: A Gymnasium environment.
        """
        if hasattr(env, "num_envs") or not isinstance(env.observation_space, Box):
            got = getattr(env, "observation_space", None)
            raise ValueError(f"`env` must be a single environment with Box observations, got {got}")
        if env.observation_space.shape != self.observation.shape:
            wanted, got = self.observation.shape, env.observation_space.shape
            raise ValueError(f"`env` must have observations of shape {wanted}, got {got}")
        if not any(_same_actions(x, self.action) for x in (env.action_space, clipped_actions(env))):
            raise ValueError(f"`env` must have actions {self.action}, got {env.action_space}")

    def observations(self, values: Any, name: str = "observations") -> NDArray[Any]:
        """Return observations as an array with the data type of the observation space.

        Args:
            values: Observations of shape (*batch, *observation).
            name: Name of the argument, for error messages.

        Raises:
            ValueError: If the shape or the data type does not match, or a value is not finite.
        """
        shape = self.observation.shape or ()
        found = np.asarray(values)
        if found.ndim < len(shape) or found.shape[found.ndim - len(shape) :] != shape:
            wanted = f"(*batch, {', '.join(map(str, shape))})"
            raise ValueError(f"`{name}` must have shape {wanted}, got {found.shape}")
        if not np.can_cast(found.dtype, self.observation.dtype or found.dtype, "same_kind"):
            wanted = f"{self.observation.dtype} values"
            raise ValueError(f"`{name}` must be {wanted}, got {found.dtype}")
        if not np.isfinite(found).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinity")
        with np.errstate(over="ignore"):
            cast = found.astype(self.observation.dtype)
        if not np.isfinite(cast).all():
            raise ValueError(
                f"`{name}` must be finite after conversion to {cast.dtype}, got values outside its "
                f"range. Scale `{name}`"
            )
        return cast

    def actions(self, values: Any) -> Any:
        """Clip the actions of a policy and convert them to the data type of the action space.

        Args:
            values: Array of shape (*batch, *action); for ``Discrete`` spaces, of shape (*batch).

        Returns:
            An array of the same shape and the data type of the space, clipped
            to the bounds; for a single action of a ``Discrete`` space, a NumPy
            integer.
        """
        if isinstance(self.action, Box):
            whole = np.issubdtype(self.action.dtype, np.integer)
            found = np.rint(values) if whole else np.asarray(values)
            low, high = self.action.low, self.action.high
            return np.clip(found.astype(np.result_type(found, low)), low, high).astype(low.dtype)
        return np.asarray(values).astype(self.action.dtype)[()]


def _same_actions(found: gymnasium.Space[Any], wanted: gymnasium.Space[Any]) -> bool:
    if isinstance(found, Box) and isinstance(wanted, Box):
        same = found.shape == wanted.shape
        pairs = ((found.low, wanted.low), (found.high, wanted.high))
        return same and all(np.allclose(mine, theirs) for mine, theirs in pairs)
    return found == wanted


def _to_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if not isinstance(space, Box):
        raise TypeError(f"only Box and Discrete spaces can be stored, got {space}")
    about = {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype)}
    return about | {"low": _bounds(space.low), "high": _bounds(space.high)}


def _bounds(values: NDArray[Any]) -> Any:
    """Return bounds as one number if all are equal, otherwise as a list; infinity as "inf"."""
    flat = [x if math.isfinite(x) else str(x) for x in map(float, values.flatten().tolist())]
    return flat[0] if len(set(flat)) == 1 else flat


def _from_json(values: Any) -> gymnasium.Space[Any]:
    if values["type"] == "Discrete":
        return Discrete(_limited(int(values["n"])), start=int(values["start"]))
    shape = tuple(int(size) for size in values["shape"])
    _limited(math.prod(shape))
    low, high = (_from_bounds(values[name], shape) for name in ("low", "high"))
    kind = np.dtype(str(values["dtype"]))
    if kind.kind not in "fiu" or min(shape, default=0) < 0:
        raise ValueError(
            f"expected a float or integer data type and sizes of at least 0, got {kind} and {shape}"
        )
    return Box(low.astype(kind), high.astype(kind), shape, kind.type)


def _from_bounds(values: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    flat = values if isinstance(values, list) else [values] * math.prod(shape)
    return np.array([float(x) for x in flat]).reshape(shape)


def _limited(number: int) -> int:
    if not 0 < number <= LARGEST:
        raise ValueError(f"a space must have 1 to {LARGEST} elements, got {number}")
    return number
