"""Validation of recorded episodes, and conversion of recorded episodes to rollouts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Shaped
from numpy.typing import NDArray

from metarl.core import Params, torch_generator, tree
from metarl.core.speed import chunks
from metarl.models.spaces import Spaces
from metarl.rl import Actor, Policy, Rollout
from metarl.rl.episodes import join_steps, masked, padded_length
from metarl.util import warn


class Episode(NamedTuple):
    """One episode of T time steps.

    Attributes:
        observations: Observations before each action, of shape (T, *observation).
        actions: Sampled actions before clipping, of shape (T, *action); for
            discrete actions, of shape (T,).
        rewards: Rewards of shape (T,).
        terminated: Whether the environment terminated the episode.
        truncated: Whether the episode was truncated.
        policy: Fingerprint of the policy that sampled the actions; empty if unknown.
    """

    observations: Shaped[np.ndarray, "time ..."]
    actions: Shaped[np.ndarray, "time ..."]
    rewards: Shaped[np.ndarray, " time"]
    terminated: bool = False
    truncated: bool = True
    policy: str = ""


def read_episodes(values: Sequence[Any], spaces: Spaces) -> list[Episode]:
    """Validate recorded episodes, and return them with arrays as fields.

    Args:
        values: Episodes from a :class:`~metarl.models.recorder.Recorder`, or
            dictionaries or NamedTuples with the entries of :class:`Episode`.
            ``policy`` is optional. ``terminated`` and ``truncated`` are False
            if missing, and can also be arrays with one value per time step.
        spaces: The spaces of the policy.

    Raises:
        ValueError: If there is no episode, or an episode does not match the spaces.
    """
    if not values:
        raise ValueError("`episodes` must contain at least one episode, got none")
    return [_read(value, spaces, index) for index, value in enumerate(values)]


def _read(value: Any, spaces: Spaces, index: int) -> Episode:
    """Validate one episode and convert the fields to arrays; `index` is used in errors."""
    fields = value if isinstance(value, Mapping) else getattr(value, "_asdict", dict)()
    if missing := [name for name in Episode._fields[:3] if name not in fields]:
        raise ValueError(
            f"episode {index} of `episodes` has no {', '.join(missing)}: expected the entries "
            "observations, actions and rewards"
        )
    name = f"episodes[{index}]"
    observations = spaces.observations(fields["observations"], f"{name}.observations")
    actions, rewards = (np.asarray(fields[each]) for each in ("actions", "rewards"))
    _require_shapes(name, observations, actions, rewards, spaces)
    policy = str(fields.get("policy", ""))
    if not policy:
        _require_bounds(name, observations, actions, spaces)
    terminated, truncated = (
        _ends(name, flag, fields.get(flag, False), len(rewards)) for flag in Episode._fields[3:5]
    )
    return Episode(observations, actions, rewards, terminated, truncated, policy)


def _require_shapes(
    name: str, observations: Any, actions: Any, rewards: Any, spaces: Spaces
) -> None:
    length = len(rewards) if rewards.ndim == 1 else 0
    if length == 0:
        raise ValueError(
            f"`{name}.rewards` must have shape (time,) and at least one time step, got "
            f"{rewards.shape}"
        )
    shape = (length, *(spaces.observation.shape or ()))
    if observations.shape != shape:
        got = f"{observations.shape}. Leave out the observation after the last action"
        raise ValueError(f"`{name}.observations` must have shape {shape}, got {got}")
    if actions.shape != (shape := (length, *(spaces.action.shape or ()))):
        raise ValueError(f"`{name}.actions` must have shape {shape}, got {actions.shape}")
    discrete = isinstance(spaces.action, Discrete)
    if discrete and not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(
            f"`{name}.actions` must be integers for the action space {spaces.action}, got "
            f"{actions.dtype}"
        )
    for field, values in (("actions", actions), ("rewards", rewards)):
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise ValueError(
                f"`{name}.{field}` must be finite numbers, got NaN, infinity or another type "
                f"(data type {values.dtype})"
            )


def _require_bounds(name: str, observations: Any, actions: Any, spaces: Spaces) -> None:
    """Raise a ValueError if observations or discrete actions are out of bounds.

    Continuous actions are not checked, because samples can be outside the action space.
    """
    seen = spaces.observation
    if isinstance(seen, Box):
        near = 1e-4 * (1 + np.abs(observations))
        outside = (observations < seen.low - near) | (observations > seen.high + near)
        if outside.any():
            raise ValueError(
                f"`{name}.observations` must be inside the observation space {seen}, got "
                f"{observations[outside][0]}"
            )
    if isinstance(spaces.action, Discrete):
        most = int(spaces.action.n) - 1
        if actions.min() < 0 or actions.max() > most:
            got = f"{actions.min()} to {actions.max()}"
            raise ValueError(f"`{name}.actions` must be from 0 to {most}, got {got}")


def _ends(name: str, field: str, value: Any, length: int) -> bool:
    """Return whether a flag is set at the last time step, and reject a flag that is set earlier."""
    flags = np.asarray(value, bool)
    if flags.shape not in ((), (length,)):
        raise ValueError(f"`{name}.{field}` must have shape () or ({length},), got {flags.shape}")
    if flags.ndim and flags[:-1].any():
        at = int(flags.argmax())
        raise ValueError(
            f"`{name}.{field}` must only be set at the last of {length} time steps, got index {at}"
            ". Pass each episode as a separate element of `episodes`"
        )
    return bool(flags if flags.ndim == 0 else flags[-1])


def rollout_of(
    policy: Policy,
    params: Params,
    episodes: Sequence[Episode],
    horizon: int,
    actor: Actor | None = None,
) -> Rollout:
    """Convert recorded episodes to a rollout that is bit-identical to the rollout of a sampler.

    The action distributions are recomputed one time step at a time, as in
    :meth:`metarl.rl.sampler.Sampler.rollout`.

    Args:
        policy: The policy that sampled the actions.
        params: Parameters of the policy with a leading task axis of size 1.
        episodes: The episodes.
        horizon: Maximum number of time steps per episode in training, which
            determines the length that the rollout is padded to. Longer episodes
            are not cut.
        actor: The memory of a policy of RL² before the episodes, which follow each other and are
            added to the memory.

    Returns:
        The rollout, with a leading task axis of size 1.
    """
    if actor is not None and len(episodes) > 1:
        parts = [rollout_of(policy, params, [one], horizon, actor) for one in episodes]
        return _side_by_side(parts)
    like = next(iter(params.values()))
    lengths = np.array([len(episode.rewards) for episode in episodes])
    longest = int(lengths.max())
    fields = zip(*(episode[:3] for episode in episodes), strict=True)
    columns = [_padded(arrays, like, longest) for arrays in fields]
    steps: list[tuple[Any, ...]] = []
    with torch.no_grad(), chunks.one_thread_per_operator():
        actor = actor or policy.actor(params, (len(episodes),))
        actor.begin()
        for time, (seen, actions, rewards) in enumerate(zip(*columns, strict=True)):
            inputs = actor.inputs(seen)
            behavior = actor.act(inputs)
            mask = torch.as_tensor(lengths > time, device=like.device)[None]
            diverged = torch.zeros_like(mask)
            actor.observe(actions, rewards, mask)
            steps.append((behavior, inputs, actions, rewards, mask, diverged, {}))
        length = padded_length(longest, horizon) if longest <= horizon else longest
        return join_steps(steps, length, like.dtype)


def _side_by_side(parts: Sequence[Rollout]) -> Rollout:
    """Join rollouts of one task on the episode axis, padded to the longest time axis."""
    longest = max(part.mask.shape[1] for part in parts)

    def joined(*each: torch.Tensor) -> torch.Tensor:
        padded = [
            torch.cat([x, x.new_zeros(1, longest - x.shape[1], *x.shape[2:])], 1) for x in each
        ]
        return torch.cat(padded, 2)

    found: Rollout = tree.map_leaves(joined, *parts)
    return found


def episodes_in(rollout: Rollout, spaces: Spaces) -> list[Episode]:
    """Return the episodes in a rollout of one task, for the memory of a policy of RL²."""
    found, size = [], int(np.prod(spaces.observation.shape or ()))
    for index in range(rollout.mask.shape[2]):
        kept = rollout.mask[0, :, index]
        fields = (rollout.observations[..., :size], rollout.actions, rollout.rewards)
        seen, actions, rewards = (x[0, :, index][kept].numpy(force=True) for x in fields)
        found.append(Episode(seen, actions, rewards))
    return found


def _padded(arrays: Sequence[NDArray[Any]], like: torch.Tensor, length: int) -> torch.Tensor:
    """Pad arrays to `length` time steps and stack them: shape (length, 1, episodes, ...)."""
    padded = np.zeros((length, 1, len(arrays), *arrays[0].shape[1:]), np.result_type(*arrays))
    for index, array in enumerate(arrays):
        padded[: len(array), 0, index] = array
    found = torch.as_tensor(padded)
    kind = like.dtype if found.is_floating_point() else found.dtype
    return found.to(like.device, kind)


def warn_if_improbable(rollout: Rollout, *, draws: int = 32) -> None:
    """Warn if the actions in a rollout are unlikely to be samples from the policy.

    The mean log-probability of the actions is compared with the mean
    log-probability of new samples from the same action distributions. A
    difference of six standard deviations causes a warning.

    Args:
        rollout: The rollout of recorded episodes.
        draws: Number of new samples per action.
    """
    behavior, mask = rollout.behavior, rollout.mask
    generator = torch_generator(0, 0, "probability", device=mask.device)

    def mean(actions: torch.Tensor) -> torch.Tensor:
        return masked(behavior.log_prob(actions), mask).double().sum() / mask.sum()

    expected = torch.stack([mean(behavior.sample(generator)) for _ in range(draws)])
    surprise = (expected.mean() - mean(rollout.actions)) / expected.std().clamp(min=1e-12)
    if not abs(surprise) < 6:
        odd = "improbable" if surprise > 0 else "too probable (deterministic or clipped)"
        warn(
            f"the actions in `episodes` are {odd} under the policy, but adaptation requires "
            "samples from this policy before clipping. Record the episodes with `policy.record()`"
        )
