"""Policies: modules from observations to action distributions."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import vmap

from metarl.core import Apply, Params, functional, tree
from metarl.nn import RunningNorm, mlp, standardized
from metarl.rl.acting import Actor, Carry, Step
from metarl.rl.distributions import Categorical, Distribution, Gaussian, gaussian
from metarl.rl.episodes import Episodes, Rollout


CONTEXT = "context"
NORMALIZER = "normalizer"


class Policy(Apply):
    """A policy as a pure function of its parameters.

    This class implements policies without memory, whose module maps
    observations to an action distribution. For a policy with memory, use
    :class:`~metarl.rl.recurrent.RecurrentPolicy`, or override :meth:`initial`
    and :meth:`step` in a subclass. The sampler, the losses and the trust region
    only use :meth:`over_tasks` and :meth:`unroll`.

    Attributes:
        trials: Whether the memory is kept for all episodes of a task, as in RL².
    """

    trials: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> tuple["Policy", Params]:
        """Return a policy that computes a module's outputs, and the module's parameters by name."""
        return cls(module), functional(module)[1]

    def initial(self, params: Params, batch: Sequence[int]) -> Carry:
        """Return the carry, which is the policy's memory, at the start of an episode.

        Args:
            params: Parameters for one task.
            batch: Sizes of the leading axes of every tensor in the carry, such
                as ``(num_episodes,)``.
        """
        return ()

    def traced(self, params: Params) -> bool:
        """Return whether to trace programs that evaluate the policy.

        Programs with a loop over time steps are not traced, because tracing takes about a second
        per time step, nor are modules with an attribute ``traced = False``.

        Args:
            params: Parameters for one task.
        """
        looped = bool(tree.leaves(self.initial(params, (1,))))
        return getattr(self.module, "traced", True) and not looped

    def step(
        self, params: Params, carry: Carry, observation: Shaped[Tensor, "..."]
    ) -> tuple[Carry, Distribution]:
        """Compute the action distribution at one time step, and update the carry.

        Args:
            params: Parameters for one task.
            carry: The carry returned by :meth:`initial` or by the previous step.
            observation: Observations of shape (*batch, *observation).

        Returns:
            The next carry, and the action distribution with batch axes (*batch).
        """
        return carry, self(params, observation)

    def unroll(self, params: Params, episodes: Episodes | Rollout) -> Distribution:
        """Return the action distributions at all time steps in one task's episodes.

        Args:
            params: Parameters for one task.
            episodes: The task's episodes. Every episode starts at time 0 with the initial carry.

        Returns:
            Distributions with batch axes (time, episode).
        """
        observations = episodes.observations
        carry = self.initial(params, observations.shape[1:2])
        if not tree.leaves(carry):  # without memory, all time steps are one batch
            flat: Distribution = self(params, observations.flatten(0, 1))
            return tree.map_leaves(lambda x: x.unflatten(0, observations.shape[:2]), flat)
        return self.scan(params, carry, observations)[1]

    def scan(
        self, params: Params, carry: Carry, observations: Shaped[Tensor, "time ..."]
    ) -> tuple[Carry, Distribution]:
        """Compute the action distributions at several time steps.

        Args:
            params: Parameters for one task.
            carry: The carry before the first time step.
            observations: Observations of shape (time, *batch, *observation).

        Returns:
            The carry after the last time step, and distributions with batch axes (time, *batch).
        """
        found = []
        for observation in observations.unbind():
            carry, distribution = self.step(params, carry, observation)
            found.append(distribution)
        return carry, tree.stack(found)

    def over_tasks(self, params: Params, batch: Sequence[int]) -> tuple[Carry, Step]:
        """Bind one set of parameters per task, to step all tasks together in a rollout.

        By default, the step function applies ``vmap`` over tasks to
        :meth:`step`. A module without memory can define a faster
        ``over_tasks(params)``, which returns a function from observations with
        a task axis to action distributions.

        Args:
            params: Parameters with a leading task axis.
            batch: Sizes of the batch axes for one task at one time step, such
                as ``(num_episodes,)``.

        Returns:
            The carry at the start of the episodes, and the step function. All
            tensors in the carry and all inputs and outputs of the step function
            have a leading task axis.
        """
        carry = vmap(lambda own: self.initial(own, batch))(params)
        bind = getattr(self.module, "over_tasks", None)
        if bind is None:
            return carry, partial(vmap(self.step), params)
        act = bind(params)
        return carry, lambda carry, observations: (carry, act(observations))

    def actor(self, params: Params, batch: Sequence[int]) -> Actor:
        """Return an actor, which keeps the carry in a rollout.

        Args:
            params: Parameters with a leading task axis.
            batch: Sizes of the batch axes for one task, as in :meth:`over_tasks`.
        """
        return Actor(*self.over_tasks(params, batch))


class _MLPPolicy(nn.Module):
    """An MLP whose outputs parametrize an action distribution (:meth:`distribution`).

    If `context` is positive, the network receives this number of context
    parameters as additional inputs (CAVIA, Zintgraf et al. 2019). With
    `normalize`, observations are standardized with running statistics.
    """

    def __init__(
        self, sizes: Sequence[int], *, context: int = 0, normalize: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.network = mlp((sizes[0] + context, *sizes[1:]), **options)
        if context:
            self.context = nn.Parameter(torch.zeros(context))
        if normalize:
            self.normalizer = RunningNorm(sizes[0])

    def forward(self, observations: Shaped[Tensor, "*batch features"]) -> Distribution:
        """Return the action distribution at each observation."""
        params: Params = dict(self.named_parameters())
        return self.distribution(params, self.network(_inputs(observations, params)))

    def over_tasks(self, params: Params) -> Callable[[Tensor], Distribution]:
        """Bind one set of parameters per task, for a faster step than with ``vmap``.

        Args:
            params: Parameters with a leading task axis.

        Returns:
            A function from observations of shape (task, *batch, features) to
            action distributions, which computes one batched matrix product per
            layer.
        """
        layers = [
            _bound_linear(params, f"network.{index}") if isinstance(layer, nn.Linear) else layer
            for index, layer in enumerate(self.network)
        ]
        slots = {name: p.unsqueeze(1) for name, p in params.items()}

        def act(observations: Tensor) -> Distribution:
            num_tasks, *batch, features = observations.shape
            hidden = _inputs(observations.reshape(num_tasks, -1, features), slots)
            for layer in layers:
                hidden = layer(hidden)
            flat = self.distribution(slots, hidden)
            return type(flat)(*(x.reshape(num_tasks, *batch, -1) for x in flat))  # type: ignore

        return act

    def distribution(self, params: Params, outputs: Tensor) -> Distribution:
        """Return the action distribution for network outputs of shape (*batch, outputs)."""
        raise NotImplementedError


def _inputs(observations: Tensor, params: Params) -> Tensor:
    """Return observations as normalized numbers, followed by the context parameters."""
    if not observations.is_floating_point():
        observations = observations.to(next(iter(params.values())).dtype)
    if f"{NORMALIZER}.mean" in params:
        mean, scale = params[f"{NORMALIZER}.mean"], params[f"{NORMALIZER}.scale"]
        observations = standardized(observations, mean, scale)
    if CONTEXT not in params:
        return observations
    context = params[CONTEXT].expand(*observations.shape[:-1], -1)
    return torch.cat([observations, context], -1)


def _bound_linear(params: Params, name: str) -> Callable[[Tensor], Tensor]:
    weight, row = params[f"{name}.weight"].mT.contiguous(), params[f"{name}.bias"].unsqueeze(1)
    return lambda inputs: torch.baddbmm(row, inputs, weight)


class GaussianMLP(_MLPPolicy):
    """A Gaussian policy with a learned log-std that does not depend on the observation.

    Actions are sampled from N(scale · output, (scale · exp(log_std))²). A scale
    of 0.1 matches implementations whose policies act in [−10, 10] and divide
    actions by ten.

    Args:
        sizes: Widths of all layers, from the observation to the action.
        init_std: Initial standard deviation of the actions.
        scale: Factor that multiplies the network's outputs and the standard deviation.
        options: ``context``, ``normalize`` and options of :func:`metarl.nn.dense.mlp`.
    """

    def __init__(
        self, sizes: Sequence[int], *, init_std: float = 1.0, scale: float = 1.0, **options: Any
    ) -> None:
        super().__init__(sizes, **options)
        self.scale = scale
        self.log_std = nn.Parameter(torch.full((sizes[-1],), math.log(init_std / scale)))

    def distribution(self, params: Params, outputs: Tensor) -> Gaussian:
        """Return N(scale · outputs, (scale · exp(log_std))²)."""
        return gaussian(outputs, params["log_std"], self.scale)


class CategoricalMLP(_MLPPolicy):
    """A categorical policy whose logits are the outputs of the network."""

    def distribution(self, params: Params, outputs: Tensor) -> Categorical:
        """Return the categorical distribution with logits `outputs`."""
        return Categorical(outputs)
