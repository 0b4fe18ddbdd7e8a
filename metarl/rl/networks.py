"""Policies built from observation and action spaces, by the name of their network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from metarl.core import Params
from metarl.nn import ACTIVATIONS, CELLS, linear, mlp
from metarl.rl.distributions import CategoricalHead, GaussianHead
from metarl.rl.infos import flattening
from metarl.rl.pixels import PixelEncoder, is_image
from metarl.rl.policies import CategoricalMLP, GaussianMLP, Policy
from metarl.rl.recurrent import RecurrentModule, recurrent_policy
from metarl.rl.vector_env import brief
from metarl.util import among


Space = gymnasium.Space[Any]


class EncodedPolicy(nn.Module):
    """An encoder of observations followed by a head, without memory."""

    traced = False  # convolutions modify tensors in place

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, observations: Tensor) -> Any:
        """Return the action distribution at each observation."""
        return self.head(self.encoder(observations.to(next(self.parameters()).dtype)))


def mlp_policy(
    observation_space: Space,
    action_space: Space,
    *,
    hidden: Sequence[int] = (100, 100),
    init_std: float = 1.0,
    scale: float = 1.0,
    **options: Any,
) -> tuple[Policy, Params]:
    """Build an MLP policy for an observation space and an action space, and sample its parameters.

    Args:
        observation_space: A flat ``Box``.
        action_space: A flat ``Box`` of floating-point numbers for a Gaussian policy, or a
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
    sizes = (_flat_size(observation_space), *hidden, _action_size(action_space))
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return Policy.of(CategoricalMLP(sizes, **options))
    return Policy.of(GaussianMLP(sizes, init_std=init_std, scale=scale, **options))


def cnn_policy(
    observation_space: Space, action_space: Space, *, hidden: Sequence[int] = (512,), **options: Any
) -> tuple[Policy, Params]:
    """Build a convolutional policy for image observations, and sample its parameters.

    Args:
        observation_space: A ``Box`` of images; see :class:`~metarl.rl.pixels.PixelEncoder`.
        action_space: As in :func:`mlp_policy`.
        hidden: Widths of the layers after the convolutions; 512 in Mnih et al. 2015.
        options: ``init_std``, ``scale``, ``activation``, ``output_gain`` and ``generator``, as in
            :func:`mlp_policy`.

    Returns:
        The policy and the initial parameters.

    Raises:
        TypeError: If a space or an option is not supported.
    """
    if not is_image(observation_space):
        raise TypeError(
            f"network=cnn requires image observations, got {observation_space}; use network=mlp"
        )
    encoder, width = _encoder(observation_space, hidden, 0, **_kept(options, "activation"))
    return Policy.of(EncodedPolicy(encoder, _head(width, action_space, **options)))


def recurrent(
    cell: str,
    observation_space: Space,
    action_space: Space,
    *,
    hidden: Sequence[int] = (),
    memory: int = 128,
    trials: bool = False,
    value: bool = False,
    **options: Any,
) -> tuple[Policy, Params]:
    """Build a policy with a recurrent cell, and sample its parameters.

    Args:
        cell: A key of :data:`~metarl.nn.CELLS`, such as ``"gru"``.
        observation_space: A flat ``Box``, or a ``Box`` of images, which is encoded by a
            convolutional network.
        action_space: As in :func:`mlp_policy`.
        hidden: Widths of the layers between the observation and the cell.
        memory: Number of outputs of the cell.
        trials: Whether the memory lasts for all episodes of a task, as in RL²; see
            :class:`~metarl.rl.recurrent.TrialPolicy`.
        value: Whether to add a linear layer that predicts the return-to-go.
        options: ``init_std``, ``scale``, ``activation``, ``output_gain`` and ``generator``, as in
            :func:`mlp_policy`.

    Returns:
        The policy and the initial parameters.

    Raises:
        TypeError: If a space or an option is not supported.
    """
    size, generator = _action_size(action_space), options.get("generator")
    if trials:
        _flat_size(observation_space)
    encoder, width = _encoder(
        observation_space, hidden, trials * (size + 2), **_kept(options, "activation")
    )
    made = CELLS[cell](width, memory, generator=generator)
    head = _head(memory, action_space, **options)
    guess = linear(memory, 1, generator=generator) if value else None
    discrete = isinstance(action_space, gymnasium.spaces.Discrete)
    module = RecurrentModule(encoder, made, head, guess)
    return recurrent_policy(
        module, trials=trials, num_actions=size if discrete else None, size=size
    )


NETWORKS: dict[str, Callable[..., tuple[Policy, Params]]] = {
    "mlp": mlp_policy,
    "cnn": cnn_policy,
    **{name: partial(recurrent, name) for name in CELLS},
}
"""Policy builders by name: ``(observation_space, action_space, **settings) ->
(policy, params)``."""


def make_policy(
    network: str, observation_space: Space, action_space: Space, **settings: Any
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


def _flat_size(space: Space) -> int:
    """Return the number of elements of a flat ``Box``; raise a TypeError for other spaces."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        images = " or, for images, set network=cnn" if is_image(space) else ""
        raise TypeError(
            f"policies require flat Box observations, got {brief(space)}; "
            f"{flattening(space)}{images}"
        )
    return space.shape[0]


def _action_size(space: Space) -> int:
    """Return the number of actions; raise a TypeError if a policy does not support the space."""
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return int(space.n)
    flat = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
    if flat and space.dtype is not None and space.dtype.kind == "f":
        return int((space.shape or ())[0])
    raise TypeError(
        "the action space must be a one-dimensional Box of floating-point numbers or a Discrete "
        f"space with start=0, got {space}; wrap the environment to convert its actions"
    )


def _encoder(
    space: Space, hidden: Sequence[int], extra: int, *, activation: str, generator: Any
) -> tuple[nn.Module, int]:
    """Return a network from observations to features, and the number of features.

    Args:
        space: The observation space.
        hidden: Widths of the layers.
        extra: Number of inputs in addition to the observation.
        activation: Activation function after every layer.
        generator: Random generator for the weights.
    """
    first: Any = nn.Identity()
    if is_image(space):
        first = PixelEncoder(space, generator=generator)  # type: ignore[arg-type]
    width: int = first.size if is_image(space) else _flat_size(space) + extra
    if not hidden:
        return first, width
    layers = mlp((width, *hidden), activation=activation, generator=generator)
    return nn.Sequential(first, layers, ACTIVATIONS[activation]()), hidden[-1]


def _head(
    width: int,
    space: Space,
    *,
    init_std: float = 1.0,
    scale: float = 1.0,
    output_gain: float = 1.0,
    generator: torch.Generator | None = None,
    context: int = 0,
    normalize: bool = False,
    **known: Any,
) -> nn.Module:
    """Return the head for an action space; raise a TypeError for options of MLPs."""
    if context:
        raise TypeError("context parameters require network=mlp; set network=mlp or context_size=0")
    if normalize:
        raise TypeError("normalize_observations requires network=mlp; set network=mlp")
    if unknown := known.keys() - {"activation"}:
        raise TypeError(f"unknown settings of the network: {', '.join(sorted(unknown))}")
    options: Any = {"gain": output_gain, "generator": generator}
    if isinstance(space, gymnasium.spaces.Discrete):
        return CategoricalHead(width, _action_size(space), **options)
    return GaussianHead(width, _action_size(space), init_std=init_std, scale=scale, **options)


def _kept(options: dict[str, Any], name: str) -> dict[str, Any]:
    default = {name: "relu", "generator": None}
    return {key: options.get(key, value) for key, value in default.items()}
