"""Recording of episodes in a user's own environment loop."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray

from metarl.core import Params, tree
from metarl.models.episodes import Episode
from metarl.models.spaces import Spaces
from metarl.rl import Actor, Policy


class Recorder:
    """A recorder that samples actions and stores episodes, for one environment at a time.

    Attributes:
        episodes: The completed episodes, for ``policy.adapt(episodes=...)``.

    :meth:`MetaPolicy.record` has an example.
    """

    def __init__(
        self,
        policy: Policy,
        params: Params,
        spaces: Spaces,
        generator: torch.Generator,
        name: str,
        actor: Actor | None = None,
    ) -> None:
        """Create a recorder; users call ``policy.record()`` instead.

        Args:
            policy: The policy.
            params: Parameters of the policy with a leading task axis of size 1.
            spaces: The spaces of the policy.
            generator: Random generator for the actions.
            name: Fingerprint of the policy, which is stored in the episodes.
            actor: The memory of a policy of RL² after its previous episodes.
        """
        self.episodes: list[Episode] = []
        self._policy, self._params, self._spaces = policy, params, spaces
        self._generator, self._name, self._trial = generator, name, actor
        self._start()

    def _start(self) -> None:
        self._steps: list[tuple[Any, Any, float]] = []
        self._pending: tuple[Any, Any] | None = None
        self._actor = self._trial or self._policy.actor(self._params, (1,))
        self._actor.begin()

    @property
    def length(self) -> int:
        """Number of completed time steps in the current episode."""
        return len(self._steps)

    def act(self, observation: Any) -> Shaped[np.ndarray, "..."] | np.generic:
        """Sample an action, and store it with the observation.

        Args:
            observation: The current observation, with the shape of the observation space.

        Returns:
            An action for ``env.step``, clipped to the action space. The sample
            before clipping is stored, because adaptation requires it.

        Raises:
            ValueError: If the observation does not match the observation space,
                or is so large that the outputs of the policy are not finite.
            RuntimeError: If :meth:`step` was not called after the previous action.
        """
        if self._pending is not None:
            raise RuntimeError(
                "`act` was called twice in a row. Call `step` after each action, or `reset` to "
                "discard the current episode"
            )
        seen = self._spaces.observations(observation, "observation")
        if seen.shape != self._spaces.observation.shape:
            wanted = self._spaces.observation.shape
            raise ValueError(f"`observation` must have shape {wanted}, got {seen.shape}")
        like = next(iter(self._params.values()))
        inputs = self._actor.inputs(inputs_of(seen, like)[None, None])
        with torch.no_grad():
            behavior = self._actor.act(inputs)
            require_finite_outputs(behavior)
            sampled = behavior.sample(self._generator)
        self._pending = seen, (action := sampled[0, 0].numpy(force=True))
        return self._spaces.actions(action)  # type: ignore[no-any-return]

    def step(self, reward: Any, terminated: Any, truncated: Any = False) -> bool:
        """Store the reward of the last action and, at the end of an episode, the complete episode.

        An episode also ends after as many time steps as in training (``spaces.horizon``).

        Args:
            reward: Reward for the last action, one number.
            terminated: One boolean, whether the environment terminated the episode.
            truncated: One boolean, whether the episode was truncated.

        Returns:
            Whether the episode has ended, so that the environment must be reset.

        Raises:
            ValueError: If the reward is not one finite number, or `terminated`
                or `truncated` is not one boolean. The recorder is not changed.
            RuntimeError: If :meth:`act` was not called before this step.
        """
        if self._pending is None:
            raise RuntimeError("`step` was called without an action. Call `act` before each step")
        _require_one("reward", reward, "fiub", "finite number")
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            _require_one(name, value, "b", "boolean")
        like = next(iter(self._params.values()))
        taken, given = (like.new_tensor(x)[None, None] for x in (self._pending[1], float(reward)))
        discrete = np.issubdtype(np.asarray(self._pending[1]).dtype, np.integer)
        self._actor.observe(taken.long() if discrete else taken, given, torch.ones_like(given) > 0)
        self._steps.append((*self._pending, float(reward)))
        self._pending = None
        truncated = bool(truncated) or (not terminated and self.length >= self._spaces.horizon)
        ended = bool(terminated) or truncated
        if ended:
            seen, actions, rewards = map(np.array, zip(*self._steps, strict=True))
            flags = bool(terminated), truncated
            self.episodes.append(Episode(seen, actions, rewards, *flags, self._name))
            self._start()
        return ended

    def reset(self) -> None:
        """Discard the current episode; completed episodes are kept.

        Raises:
            RuntimeError: If the policy keeps its memory for a whole trial (RL²), which would then
                contain a part of the discarded episode.
        """
        if self._trial is not None and self._steps:
            raise RuntimeError(
                "`reset` cannot remove a part of an episode from the memory of an RL² policy. Call "
                "`step` with truncated=True, or create a new recorder"
            )
        self._start()


def inputs_of(observations: NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    """Return observations as inputs of a policy, with the data type of the parameter `like`.

    Integers, such as image bytes, keep their data type.

    Raises:
        ValueError: If an observation is not finite in this data type.
    """
    found = torch.as_tensor(observations)
    found = found.to(like.device, like.dtype if found.is_floating_point() else found.dtype)
    if not found.isfinite().all():
        raise ValueError(
            f"`observation` must be finite in {like.dtype}, got a number that is too large. Scale "
            "observations as in training"
        )
    return found


def require_finite_outputs(distribution: Any) -> None:
    """Raise a ValueError if a parameter of an action distribution is NaN or infinite."""
    if not all(each.isfinite().all() for each in tree.leaves(distribution)):
        raise ValueError(
            "the outputs of the policy must be finite, got NaN or infinity. Scale `observation` "
            "as in training"
        )


def _require_one(name: str, value: Any, kinds: str, wanted: str) -> None:
    found = np.asarray(value)
    if found.shape or found.dtype.kind not in kinds or not np.isfinite(found):
        raise ValueError(f"`{name}` must be one {wanted}, got {value!r:.40}")
