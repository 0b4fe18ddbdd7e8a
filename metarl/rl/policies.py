"""Policies: modules from observations to action distributions."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import gymnasium
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import vmap

from metarl.core import Apply, Params, functional, tree
from metarl.nn import RunningNorm, mlp, standardized
from metarl.rl.distributions import Categorical, Distribution, Gaussian
from metarl.rl.episodes import Episodes, Rollout
from metarl.util import among


CONTEXT = "context"
NORMALIZER = "normalizer"
MIN_LOG_STD = math.log(1e-6)  # the floor of Finn et al.'s code; below it the gradient is zero

Carry: TypeAlias = Any
"""A policy's memory within an episode: a tree of tensors, or ``()`` for policies without memory."""

Step: TypeAlias = Callable[[Carry, Tensor], tuple[Carry, Distribution]]
"""One time step of a policy with fixed parameters: ``(carry, observations) ->
(carry, distribution)``."""


class Policy(Apply):
    """A policy as a pure function of its parameters.

    This class implements policies without memory, whose module maps
    observations to an action distribution. For a policy with memory, override
    :meth:`initial` and :meth:`step` in a subclass. The sampler, the losses and
    the trust region only use :meth:`over_tasks` and :meth:`unroll`.
    """

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
        observations, found = episodes.observations, []
        carry = self.initial(params, observations.shape[1:2])
        if not tree.leaves(carry):  # without memory, all time steps are one batch
            flat: Distribution = self(params, observations.flatten(0, 1))
            return tree.map_leaves(lambda x: x.unflatten(0, observations.shape[:2]), flat)
        for observation in observations.unbind():
            carry, distribution = self.step(params, carry, observation)
            found.append(distribution)
        return tree.stack(found)

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
        log_std = params["log_std"] + math.log(self.scale) if self.scale != 1 else params["log_std"]
        mean = outputs * self.scale if self.scale != 1 else outputs
        return Gaussian(mean, log_std.clamp(min=MIN_LOG_STD).expand_as(mean))


class CategoricalMLP(_MLPPolicy):
    """A categorical policy whose logits are the outputs of the network."""

    def distribution(self, params: Params, outputs: Tensor) -> Categorical:
        """Return the categorical distribution with logits `outputs`."""
        return Categorical(outputs)


def mlp_policy(
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    *,
    hidden: Sequence[int] = (100, 100),
    init_std: float = 1.0,
    scale: float = 1.0,
    **options: Any,
) -> tuple[Policy, Params]:
    """Build an MLP policy for an observation space and an action space, and sample its parameters.

    Args:
        observation_space: A flat ``Box``.
        action_space: A flat ``Box`` of floats for a Gaussian policy, or a
            ``Discrete`` space that starts at 0 for a categorical policy.
        hidden: Widths of the hidden layers.
        init_std: Initial standard deviation of a Gaussian policy, in units of the action space.
        scale: Factor that multiplies a Gaussian policy's outputs; see :class:`GaussianMLP`.
        options: ``context``, the number of context parameters; ``normalize``
            (:func:`~metarl.rl.stability.normalizing`); and options of
            :func:`metarl.nn.dense.mlp`.

    Returns:
        The policy and the initial parameters.

    Raises:
        TypeError: If a space is not supported.
    """
    if not isinstance(observation_space, gymnasium.spaces.Box) or len(observation_space.shape) != 1:
        raise TypeError(
            f"policies require flat Box observations, got {observation_space}; wrap the "
            "environment in gymnasium.wrappers.FlattenObservation"
        )
    inputs = (observation_space.shape[0], *hidden)
    if isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0:
        return Policy.of(CategoricalMLP((*inputs, int(action_space.n)), **options))
    box = isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1
    if box and action_space.dtype is not None and action_space.dtype.kind == "f":
        sizes = (*inputs, *(action_space.shape or ()))
        return Policy.of(GaussianMLP(sizes, init_std=init_std, scale=scale, **options))
    raise TypeError(
        "the action space must be a one-dimensional Box of floating-point numbers or a Discrete "
        f"space with start=0, got {action_space}; wrap the environment to convert its actions"
    )


NETWORKS: dict[str, Callable[..., tuple[Policy, Params]]] = {"mlp": mlp_policy}
"""Policy builders by name: ``(observation_space, action_space, **settings) ->
(policy, params)``."""


def make_policy(
    network: str,
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    **settings: Any,
) -> tuple[Policy, Params]:
    """Build a policy with a network from :data:`NETWORKS`, and sample its parameters.

    Args:
        network: A key of :data:`NETWORKS`, such as ``"mlp"``.
        observation_space: Observation space of a single environment.
        action_space: Action space of a single environment.
        settings: Arguments of the network's builder, such as those of :func:`mlp_policy`.

    Returns:
        The policy and the initial parameters.

    Raises:
        ValueError: If `network` is not a key of :data:`NETWORKS`.
        TypeError: If the network does not support a space or a setting.
    """
    among(NETWORKS).check("network", network)
    return NETWORKS[network](observation_space, action_space, **settings)
