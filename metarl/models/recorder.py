"""Recording of episodes in a user's own environment loop."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped

from metarl.core import Params
from metarl.models.episodes import Episode
from metarl.models.spaces import Spaces
from metarl.rl import Policy


class Recorder:
    """A recorder that samples actions and stores episodes, for one environment at a time.

    Attributes:
        episodes: The completed episodes, for ``policy.adapt(episodes=...)``.

    Example::

        recorder = policy.record()
        for _ in range(40):
            observation, _ = env.reset()
            ended = False
            while not ended:
                action = recorder.act(observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                ended = recorder.step(reward, terminated, truncated)
        adapted = policy.adapt(episodes=recorder.episodes)
    """

    def __init__(
        self, policy: Policy, params: Params, spaces: Spaces, generator: torch.Generator, name: str
    ) -> None:
        """Create a recorder; users call ``policy.record()`` instead.

        Args:
            policy: The policy.
            params: Parameters of the policy with a leading task axis of size 1.
            spaces: The spaces of the policy.
            generator: Random generator for the actions.
            name: Fingerprint of the policy, which is stored in the episodes.
        """
        self.episodes: list[Episode] = []
        self._policy, self._params, self._spaces = policy, params, spaces
        self._generator, self._name = generator, name
        self._start()

    def _start(self) -> None:
        self._steps: list[tuple[Any, Any, float]] = []
        self._pending: tuple[Any, Any] | None = None
        self._carry, self._act = self._policy.over_tasks(self._params, (1,))

    @property
    def length(self) -> int:
        """Number of completed time steps in the current episode."""
        return len(self._steps)

    def act(self, observation: Any) -> Shaped[np.ndarray, "..."] | np.generic:
        """Sample an action, and store it with the observation.

        Args:
            observation: The current observation, with the shape of the observation space.

        Returns:
            An action for ``env.step``, clipped to the action space. The sample before clipping is
            stored, because adaptation requires it.

        Raises:
            ValueError: If the observation does not match the observation space.
            RuntimeError: If :meth:`step` was not called after the previous action.
        """
        if self._pending is not None:
            raise RuntimeError("`act` was called twice in a row. Call `step` after each action")
        seen = self._spaces.observations(observation, "observation")
        if seen.shape != self._spaces.observation.shape:
            wanted = self._spaces.observation.shape
            raise ValueError(f"`observation` must have shape {wanted}, got {seen.shape}")
        like = next(iter(self._params.values()))
        inputs = torch.as_tensor(seen, device=like.device)[None, None]
        inputs = inputs.to(like.dtype) if inputs.is_floating_point() else inputs
        with torch.no_grad():
            self._carry, behavior = self._act(self._carry, inputs)
            action = behavior.sample(self._generator)[0, 0].numpy(force=True)
        self._pending = seen, action
        return self._spaces.actions(action)  # type: ignore[no-any-return]

    def step(self, reward: float, terminated: bool, truncated: bool = False) -> bool:
        """Store the reward of the last action and, at the end of an episode, the complete episode.

        Args:
            reward: Reward for the last action.
            terminated: Whether the environment terminated the episode.
            truncated: Whether the episode was truncated.

        Returns:
            Whether the episode has ended, so that the environment must be reset.

        Raises:
            ValueError: If the reward is not finite.
            RuntimeError: If :meth:`act` was not called before this step.
        """
        if self._pending is None:
            raise RuntimeError("`step` was called without an action. Call `act` before each step")
        if not np.isfinite(reward):
            raise ValueError(f"`reward` must be finite, got {reward}")
        self._steps.append((*self._pending, float(reward)))
        self._pending = None
        ended = bool(terminated or truncated)
        if ended:
            seen, actions, rewards = map(np.array, zip(*self._steps, strict=True))
            flags = bool(terminated), bool(truncated)
            self.episodes.append(Episode(seen, actions, rewards, *flags, self._name))
            self._start()
        return ended
