"""Policies that act in episodes and keep their memory between time steps."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metarl.core import tree


Carry: TypeAlias = Any
"""A policy's memory within an episode: a tree of tensors, or ``()`` for policies without memory."""

Step: TypeAlias = Callable[[Carry, Tensor], tuple[Carry, Any]]
"""One time step of a policy with fixed parameters: ``(carry, observations) ->
(carry, distribution)``."""


class Actor:
    """The memory of a policy that acts in the episodes of several tasks.

    In every time step, call :meth:`inputs`, :meth:`act` and, after the step of
    the environment, :meth:`observe`. The memory is cleared by creating a new
    actor with :meth:`Policy.actor <metarl.rl.policies.Policy.actor>`.
    """

    def __init__(self, carry: Any, step: Step) -> None:
        """Create an actor.

        Args:
            carry: The carry at the start of the episodes.
            step: Function ``(carry, inputs) -> (carry, distribution)``.
        """
        self._carry, self._step = carry, step

    def begin(self) -> None:
        """Mark the start of new episodes with the same actor; only called for policies of RL²."""

    def inputs(self, observations: Shaped[Tensor, "*batch observation"]) -> Tensor:
        """Return the inputs of the policy, which are recorded as observations."""
        return observations

    def act(self, inputs: Shaped[Tensor, "*batch inputs"]) -> Any:
        """Return the action distribution at one time step, and update the memory."""
        self._carry, behavior = self._step(self._carry, inputs)
        return behavior

    def observe(self, actions: Tensor, rewards: Tensor, alive: Tensor) -> None:
        """Receive the result of a time step; only policies of RL² use the result.

        Args:
            actions: The sampled actions.
            rewards: The rewards of shape (*batch).
            alive: True for episodes that had not ended before the step.
        """


class Previous(NamedTuple):
    """The previous time step of a trial, which RL² policies observe.

    Attributes:
        actions: Actions of shape (*batch, actions), or (*batch) if they are discrete.
        rewards: Rewards of shape (*batch).
        ended: 1 if an episode ended with this step, otherwise 0, of shape (*batch).
    """

    actions: Tensor
    rewards: Float[Tensor, "*batch"]
    ended: Float[Tensor, "*batch"]


class TrialActor(Actor):
    """An actor whose memory persists across the episodes of a trial (RL²)."""

    def __init__(self, carry: Any, step: Step, augment: Any) -> None:
        """Create an actor.

        Args:
            carry: The carry at the start of the trial.
            step: Function ``(carry, inputs) -> (carry, distribution)``.
            augment: Function ``(observations, previous) -> inputs``; `previous` is None at the
                start of the trial.
        """
        super().__init__(carry, step)
        self._augment, self._next = augment, carry
        self._previous: Previous | None = None

    def begin(self) -> None:
        """Mark the start of new episodes: the previous time step ended the previous episodes."""
        if (last := self._previous) is not None:
            self._previous = last._replace(ended=torch.ones_like(last.rewards))

    def inputs(self, observations: Float[Tensor, "*batch features"]) -> Tensor:
        """Return the observations followed by the previous action, reward and episode end."""
        inputs: Tensor = self._augment(observations, self._previous)
        return inputs

    def act(self, inputs: Float[Tensor, "*batch inputs"]) -> Any:
        """Return the action distribution at one time step."""
        self._next, behavior = self._step(self._carry, inputs)
        return behavior

    def observe(self, actions: Tensor, rewards: Tensor, alive: Bool[Tensor, "*batch"]) -> None:
        """Update the memory of all episodes that had not ended before the time step."""
        step = Previous(actions, rewards, torch.zeros_like(rewards))
        self._carry = _where(alive, self._next, self._carry)
        self._previous = step if self._previous is None else _where(alive, step, self._previous)


def _where(alive: Tensor, new: Any, old: Any) -> Any:
    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(alive.reshape(*alive.shape, *[1] * (a.ndim - alive.ndim)), a, b)

    return tree.map_leaves(choose, new, old)
