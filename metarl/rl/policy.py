"""What a policy is: a carry, a step, and the steps of given episodes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import vmap

from metarl.core import tree
from metarl.core.parameters import Apply, functional
from metarl.core.types import Params
from metarl.rl.distributions import Distribution
from metarl.rl.episodes import Episodes, Rollout


Carry: TypeAlias = Any
"""What a policy remembers of an episode: a tree of tensors, ``()`` without memory."""

Step: TypeAlias = Callable[[Carry, Tensor], tuple[Carry, Distribution]]
"""``(carry, observations) -> (carry, distribution)`` with the parameters bound."""


class Policy(Apply):
    """A policy as a pure function of its parameters.

    The sampler, the losses and the trust region only use :meth:`over_tasks` and :meth:`unroll`. As
    it stands, a policy has no memory: its module maps observations to a distribution. A policy with
    memory is a subclass with its own :meth:`initial` and :meth:`step`.
    """

    @classmethod
    def of(cls, module: nn.Module) -> tuple["Policy", Params]:
        """Split a module into a policy and its parameters; see :func:`metarl.core.parameters`."""
        return cls(module), functional(module)[1]

    def initial(self, params: Params, batch: Sequence[int]) -> Carry:
        """Return the carry at the start of an episode.

        Args:
            params: Parameters of one task.
            batch: Leading axes of every tensor of the carry, such as ``(episode,)``.
        """
        return ()

    def step(
        self, params: Params, carry: Carry, observation: Shaped[Tensor, "..."]
    ) -> tuple[Carry, Distribution]:
        """Advance one time step.

        Args:
            params: Parameters of one task.
            carry: What :meth:`initial` or the previous step returned.
            observation: Shape (*batch, *observation).

        Returns:
            The next carry, and the action distribution with batch axes (*batch).
        """
        return carry, self(params, observation)

    def unroll(self, params: Params, episodes: Episodes | Rollout) -> Distribution:
        """Return the action distributions of all time steps of one task's episodes.

        Args:
            params: Parameters of one task.
            episodes: Its episodes. Each starts with the initial carry at time 0.

        Returns:
            Distributions with batch axes (time, episode).
        """
        observations, found = episodes.observations, []
        carry = self.initial(params, observations.shape[1:2])
        if not tree.leaves(carry):  # without memory all time steps are evaluated at once
            return self(params, observations)  # type: ignore[no-any-return]
        for observation in observations.unbind():
            carry, distribution = self.step(params, carry, observation)
            found.append(distribution)
        return tree.stack(found)

    def over_tasks(self, params: Params, batch: Sequence[int]) -> tuple[Carry, Step]:
        """Bind one set of parameters per task, for a rollout of all tasks together.

        Where a module has a method ``over_tasks(params)``, which returns a function of the
        observations of all tasks, this function is called instead of ``vmap`` of the step.

        Args:
            params: Parameters with a leading task axis.
            batch: Axes of the observations of one time step and task, such as ``(episode,)``.

        Returns:
            The carry at the start of the episodes, and the step. Every tensor of these has a
            leading task axis.
        """
        carry = vmap(lambda own: self.initial(own, batch))(params)
        bind = getattr(self.module, "over_tasks", None)
        if bind is None:
            return carry, partial(vmap(self.step), params)
        act = bind(params)
        return carry, lambda carry, observations: (carry, act(observations))
